"""Compiler of the neutral filter tree to a Milvus expression over the filter tokens of a document.

Equality, membership, existence, ranges and their negations are exact. Substrings, prefixes and ranges
about very large numbers or long strings narrow the search to the documents that have a value of the
right type; `Plan.accepts` decides the rest in Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from m3plugins.indexing.filters import And, AnyFilter, Comparison, Filter, Not, Or, Scalar, matches
from m3plugins_milvus.filter_tokens import (
    EXACT_NUMBER,
    EXACT_STRING,
    field_token,
    high,
    low,
    ordered,
    type_token,
    value_token,
)

MAX_EXPRESSION = 16_384
MAX_DEPTH = 16
MAX_PARTITIONS = 64
NOTHING = 'key == ""'
_RANGES = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_INVERSE = {"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt"}


@dataclass(frozen=True)
class Plan:
    """What to ask Milvus, and what to check on what it returns.

    Attributes:
        expression: Matches every wanted row, and maybe others; "" is all rows.
        check: The filter that decides, where the expression is not exact.
    """

    expression: str = ""
    check: Filter | None = None

    def accepts(self, metadata: object) -> bool:
        """Whether a row that the expression matched is wanted; metadata that are no object, as damage is, are none."""
        return self.check is None or matches(self.check, metadata if isinstance(metadata, Mapping) else {})


def compile_filter(filter: AnyFilter | None, tenant: str | None = None) -> Plan:
    """The plan of a neutral filter, or of an expression in Milvus' own language.

    Args:
        filter: The filter.
        tenant: The metadata field that is the partition key: where the filter pins it, Milvus reads
            only the partitions in question.

    Raises:
        TypeError: If the filter is neither.
        ValueError: If an expression is empty.
    """
    if filter is None:
        return Plan()
    if isinstance(filter, str):
        if not filter.strip():
            msg = "a Milvus filter expression must not be empty; leave the filter out to match everything"
            raise ValueError(msg)
        return Plan(f"({filter})")
    if not isinstance(filter, Comparison | And | Or | Not):
        msg = (
            "filter must be a tree of m3plugins.indexing.filters (from_dict makes one of a dict) "
            f"or a Milvus expression, got {type(filter).__name__}"
        )
        raise TypeError(msg)
    part = _compile(filter, negated=False, depth=0)
    if len(part.expression) > MAX_EXPRESSION:
        part = _ANYTHING
    pinned = pinned_values(filter, tenant) if tenant else None
    if tenant and pinned and len(pinned) <= MAX_PARTITIONS:
        partitions = f"tenant in {json.dumps([value_token(tenant, value) for value in pinned])}"
        part = _Part(_join("and", [e for e in (partitions, part.expression) if e]), part.exact)
    return Plan(part.expression, None if part.exact else filter)


def pinned_values(filter: Filter, field: str) -> tuple[Scalar, ...] | None:
    """The only values of a field that can match; None if others can, too.

    Example:
        >>> from m3plugins.indexing.filters import and_, eq, gt
        >>> pinned_values(and_(eq("customer", "a"), gt("year", 2020)), "customer")
        ('a',)
    """
    if isinstance(filter, And):
        return next((v for v in (pinned_values(part, field) for part in filter.parts) if v is not None), None)
    if isinstance(filter, Comparison) and filter.field == field and filter.operator in ("eq", "in"):
        return filter.value if isinstance(filter.value, tuple) else (cast(Scalar, filter.value),)
    return None


@dataclass(frozen=True)
class _Part:
    """A condition; `exact` if it matches no row too many."""

    expression: str
    exact: bool


_ANYTHING = _Part("", exact=False)


def _compile(tree: Filter, *, negated: bool, depth: int) -> _Part:
    if isinstance(tree, Not):
        return _compile(tree.part, negated=not negated, depth=depth + 1)
    if isinstance(tree, Comparison):
        return _comparison(tree, negated)
    if depth > MAX_DEPTH:
        return _ANYTHING
    parts = [_compile(part, negated=negated, depth=depth + 1) for part in tree.parts]
    exact = all(part.exact for part in parts)
    if isinstance(tree, And) != negated:
        return _Part(_join("and", [part.expression for part in parts if part.expression]), exact)
    if any(not part.expression for part in parts):
        return _Part("", exact)
    return _Part(_join("or", [part.expression for part in parts]) or NOTHING, exact)


def _comparison(test: Comparison, negated: bool) -> _Part:
    field, value = test.field, test.value
    if test.operator == "exists":
        return _any_of([field_token(field)], negated)
    if test.operator in ("eq", "ne", "in"):
        values = value if isinstance(value, tuple) else (cast(Scalar, value),)
        return _any_of([value_token(field, v) for v in values], negated != (test.operator == "ne"))
    bound = cast("float | str", value)
    has_type = _has(type_token(field, bound))
    if test.operator in _RANGES and _is_exact(bound):
        edge = low if test.operator in ("lt", "lte") else high
        name, operator = edge(type_token(field, bound)), _RANGES[_INVERSE[test.operator] if negated else test.operator]
        condition = f'$meta["{name}"] {operator} {json.dumps(ordered(bound))}'
        return _Part(f"(not ({has_type})) or ({condition})" if negated else condition, exact=True)
    return _ANYTHING if negated else _Part(has_type, exact=False)


def _is_exact(bound: float | str) -> bool:
    return len(bound) < EXACT_STRING if isinstance(bound, str) else abs(bound) < EXACT_NUMBER


def _any_of(tokens: list[str], negated: bool) -> _Part:
    some = _join("or", [_has(token) for token in dict.fromkeys(tokens)]) or NOTHING
    return _Part(f"not ({some})" if negated else some, exact=True)


def _has(token: str) -> str:
    return f'facets like "%{token}%"'


def _join(operator: str, expressions: list[str]) -> str:
    return f" {operator} ".join(f"({e})" for e in expressions) if len(expressions) > 1 else "".join(expressions)
