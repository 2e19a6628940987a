"""From the neutral filter tree to a Milvus expression.

Neither JSON paths nor LIKE on them say what `m3plugins.retrieval.filters.matches` says (list elements,
booleans against integers, missing fields, hostile keys), they differ between Lite and servers, and on
Lite they cost a Python loop over every row, vectors included. So each document carries its *facets*: a
VARCHAR of fixed-width hashes, one for each (field, value), (field, type) and field that it has. Equality,
membership, existence and their negations are then exact LIKE conditions on one string column, and no
character of a user's reaches an expression. Ranges, substrings and prefixes narrow the search to the
documents that have a value of the right type; `Plan.accepts` decides the rest in Python.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from m3plugins.retrieval.filters import And, Comparison, Filter, Not, Or, Scalar, matches
from m3plugins.retrieval.index import AnyFilter

MAX_EXPRESSION = 16_384
MAX_DEPTH = 16
NOTHING = 'key == ""'


@dataclass(frozen=True)
class Plan:
    """What to ask Milvus, and what to check on what it returns.

    Attributes:
        expression: Matches every wanted row, and maybe others; "" is all rows.
        check: The filter that decides, where the expression is not exact.
    """

    expression: str = ""
    check: Filter | None = None

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a row that the expression matched is wanted."""
        return self.check is None or matches(self.check, metadata)


def compile_filter(filter: AnyFilter | None) -> Plan:  # noqa: A002
    """The plan of a neutral filter, or of an expression in Milvus' own language.

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
            "filter must be a tree of m3plugins.retrieval.filters (from_dict makes one of a dict) "
            f"or a Milvus expression, got {type(filter).__name__}"
        )
        raise TypeError(msg)
    part = _compile(filter, negated=False, depth=0)
    if len(part.expression) > MAX_EXPRESSION:
        part = _ANYTHING
    return Plan(part.expression, None if part.exact else filter)


def facets(metadata: Mapping[str, Any]) -> str:
    """What a document can be found by, as one string for `LIKE`."""
    found: dict[str, None] = {}
    for field, stored in metadata.items():
        if stored is None:
            continue
        found[_token("field", field)] = None
        for element in stored if isinstance(stored, list) else [stored]:
            if isinstance(element, str | bool | int | float):
                found[_token("type", field, _kind(element))] = None
                found[_token("value", field, _kind(element), _canonical(element))] = None
    return " ".join(found)


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
        tokens = [_token("field", field)]
    elif test.operator in ("eq", "ne", "in"):
        values = value if isinstance(value, tuple) else (value,)
        tokens = [_token("value", field, _kind(v), _canonical(v)) for v in values if v is not None]
        negated ^= test.operator == "ne"
    elif negated:
        return _ANYTHING
    else:
        return _Part(_has(_token("type", field, _kind(cast(Scalar, value)))), exact=False)
    some = _join("or", [_has(token) for token in dict.fromkeys(tokens)]) or NOTHING
    return _Part(f"not ({some})" if negated else some, exact=True)


def _has(token: str) -> str:
    return f'facets like "%{token}%"'


def _join(operator: str, expressions: list[str]) -> str:
    return f" {operator} ".join(f"({e})" for e in expressions) if len(expressions) > 1 else "".join(expressions)


def _kind(value: Scalar) -> str:
    return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def _canonical(value: Scalar) -> str:
    """One spelling for the values that `==` holds equal: 1 and 1.0, however large."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:x}" if isinstance(value, int) else str(value)


def _token(*parts: str) -> str:
    """24 characters of base 32: 120 bits, nothing that LIKE or a string literal treats specially."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=15).digest()
    return base64.b32encode(digest).decode()
