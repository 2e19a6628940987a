"""Milvus expressions from values of the user's: the only place where these become part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pymilvus import DataType

from m3plugins.indexing.filters import And, AnyFilter, Comparison, Filter, Not, Or
from m3plugins_milvus.filters import Plan, compile_filter
from m3plugins_milvus.requests import both, quoted

Key = str | int
EXPRESSION_LENGTH = 1 << 16
"""Characters of an expression that is made of values."""

INT64 = range(-(2**63), 2**63)

_INTEGERS = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64})
_OPERATORS = {"eq": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def literal(value: Key) -> str:
    """A string or an integer as an expression says it."""
    return str(int(value)) if isinstance(value, int) else quoted(value)


def to_key(id: str, *, integer: bool) -> Key | None:
    """The primary key that a document's id stands for; None if no row can have it."""
    if integer:
        return int(id) if re.fullmatch(r"0|-?[1-9][0-9]{0,18}", id) and int(id) in INT64 else None
    return id if is_unicode(id) else None


def is_unicode(text: str) -> bool:
    """Whether the text can be stored at all: it has no lone surrogate."""
    return not re.search("[\ud800-\udfff]", text)


def among(field: str, keys: Iterable[Key]) -> str:
    """The field has one of these values."""
    return f"{field} in [{', '.join(map(literal, keys))}]"


@dataclass(frozen=True)
class Span:
    """The keys above `low` and up to `high`, where there is such a bound."""

    low: Key | None = None
    high: Key | None = None

    def expression(self, field: str) -> str:
        """The field is in the span."""
        above = "" if self.low is None else f"{field} > {literal(self.low)}"
        return both(above, "" if self.high is None else f"{field} <= {literal(self.high)}")

    def split(self, keys: Iterable[Key]) -> tuple[Span, Span]:
        """Two spans that make up this one, each with some of these two or more keys of it."""
        ordered = sorted(set(keys))
        middle = ordered[(len(ordered) - 1) // 2]
        return Span(self.low, middle), Span(middle, self.high)


def plan(filter: AnyFilter | None, kinds: Mapping[str, DataType]) -> Plan:
    """How to find what a filter matches.

    A neutral filter is always decided in Python; equality of strings, and comparisons of integers, with a
    field of the collection's also narrow what is read.

    Args:
        filter: Neutral, or an expression of Milvus' own; None matches all.
        kinds: Those fields of the collection that are metadata.

    Raises:
        TypeError: If the filter is neither.
        ValueError: If an expression is empty.
    """
    if not isinstance(filter, Comparison | And | Or | Not):
        return compile_filter(filter)
    expression = _narrow(filter, kinds)
    return Plan(expression if len(expression) <= EXPRESSION_LENGTH else "", filter)


def _narrow(tree: Filter, kinds: Mapping[str, DataType]) -> str:
    """An expression that matches all that the tree matches."""
    if isinstance(tree, And):
        parts = [_narrow(part, kinds) for part in tree.parts]
        return " and ".join(f"({part})" for part in parts if part)
    if not isinstance(tree, Comparison):
        return ""
    values = tree.value if isinstance(tree.value, tuple) else (tree.value,)
    if kinds.get(tree.field) == DataType.VARCHAR and tree.operator in ("eq", "in"):
        known: list[Key] = [value for value in values if isinstance(value, str) and is_unicode(value)]
    elif kinds.get(tree.field) in _INTEGERS and tree.operator in (*_OPERATORS, "in"):
        known = [value for value in values if type(value) is int and value in INT64]
    else:
        return ""
    if not values or len(known) < len(values):
        return ""
    operator = _OPERATORS.get(tree.operator)
    return f"{tree.field} {operator} {literal(known[0])}" if operator else among(tree.field, known)
