"""A small filter language over metadata, the same for every engine.

Semantics: a field that is missing or null matches only `ne` and `not_`; a list field matches if any of
its elements does; booleans are not integers; strings compare by code point. Fields are top-level
metadata keys.

Example:
    >>> wanted = and_(eq("lang", "en"), gte("year", 2020))
    >>> matches(wanted, {"lang": "en", "year": 2021}), matches(wanted, {"lang": ["de", "en"]})
    (True, False)
    >>> from_dict(to_dict(wanted)) == wanted
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Scalar = str | int | float | bool
Operator = Literal["eq", "ne", "in", "gt", "gte", "lt", "lte", "exists", "contains", "prefix"]


@dataclass(frozen=True)
class Comparison:
    """One condition on one field; `value` is a tuple of scalars for `in` and None for `exists`."""

    operator: Operator
    field: str
    value: Scalar | tuple[Scalar, ...] | None = None

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            msg = f"operator must be one of {', '.join(get_args(Operator))}, got {self.operator!r}"
            raise ValueError(msg)
        if not isinstance(self.field, str) or not self.field:
            msg = f"field must be a non-empty metadata key, got {self.field!r}"
            raise ValueError(msg)
        if self.operator == "exists":
            if self.value is not None:
                msg = f"exists takes no value, got {self.value!r}"
                raise ValueError(msg)
        elif self.operator == "in":
            if not isinstance(self.value, tuple):
                msg = f"in takes a list of values, got {self.value!r}"
                raise ValueError(msg)
            for value in self.value:
                _check_scalar(self.operator, value)
        else:
            _check_scalar(self.operator, self.value)


@dataclass(frozen=True)
class And:
    """Every part matches; true when there is none."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_filters(self.parts)


@dataclass(frozen=True)
class Or:
    """Some part matches; false when there is none."""

    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        _check_filters(self.parts)


@dataclass(frozen=True)
class Not:
    """The part does not match."""

    part: Filter

    def __post_init__(self) -> None:
        _check_filters((self.part,))


Filter = Comparison | And | Or | Not

AnyFilter = Filter | str | dict[str, Any]
"""A filter of this language, or one in the engine's own (what that is, the engine says)."""


def eq(field: str, value: Scalar) -> Filter:
    """The field (or an element of it) equals the value."""
    return Comparison("eq", field, value)


def ne(field: str, value: Scalar) -> Filter:
    """Not `eq`: also where the field is missing or null."""
    return Comparison("ne", field, value)


def in_(field: str, values: Iterable[Scalar]) -> Filter:
    """The field (or an element of it) equals one of the values."""
    if isinstance(values, str):
        msg = f"in takes a list of values, got {values!r}; for one value use eq"
        raise ValueError(msg)
    return Comparison("in", field, tuple(values))


def gt(field: str, value: Scalar) -> Filter:
    """Greater than; numbers compare with numbers, strings with strings."""
    return Comparison("gt", field, value)


def gte(field: str, value: Scalar) -> Filter:
    """Greater than or equal."""
    return Comparison("gte", field, value)


def lt(field: str, value: Scalar) -> Filter:
    """Less than."""
    return Comparison("lt", field, value)


def lte(field: str, value: Scalar) -> Filter:
    """Less than or equal."""
    return Comparison("lte", field, value)


def exists(field: str) -> Filter:
    """The field is there and not null."""
    return Comparison("exists", field)


def contains(field: str, value: str) -> Filter:
    """The string (or an element of the list) has the value as a substring."""
    return Comparison("contains", field, value)


def prefix(field: str, value: str) -> Filter:
    """The string (or an element of the list) starts with the value."""
    return Comparison("prefix", field, value)


def and_(*parts: Filter) -> Filter:
    """All of the parts."""
    return And(parts)


def or_(*parts: Filter) -> Filter:
    """Any of the parts."""
    return Or(parts)


def not_(part: Filter) -> Filter:
    """Anything but the part."""
    return Not(part)


def matches(filter: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata pass the filter: the definition that every engine is tested against."""
    if isinstance(filter, And):
        return all(matches(part, metadata) for part in filter.parts)
    if isinstance(filter, Or):
        return any(matches(part, metadata) for part in filter.parts)
    if isinstance(filter, Not):
        return not matches(filter.part, metadata)
    stored = metadata.get(filter.field)
    if filter.operator == "ne":
        return not matches(Comparison("eq", filter.field, filter.value), metadata)
    if filter.operator == "exists":
        return stored is not None
    elements = stored if isinstance(stored, list) else [stored]
    wanted = filter.value if isinstance(filter.value, tuple) else (filter.value,)
    test = _TESTS[filter.operator]
    return any(_comparable(element, value) and test(element, value) for element in elements for value in wanted)


def to_dict(filter: Filter) -> dict[str, Any]:
    """The tree as JSON values: `{"and": [...]}`, `{"not": ...}`, `{"gte": {"year": 2020}}`."""
    if isinstance(filter, And):
        return {"and": [to_dict(part) for part in filter.parts]}
    if isinstance(filter, Or):
        return {"or": [to_dict(part) for part in filter.parts]}
    if isinstance(filter, Not):
        return {"not": to_dict(filter.part)}
    if filter.operator == "exists":
        return {"exists": filter.field}
    value = list(filter.value) if isinstance(filter.value, tuple) else filter.value
    return {filter.operator: {filter.field: value}}


def from_dict(tree: Mapping[str, Any]) -> Filter:
    """Reads what `to_dict` writes.

    Raises:
        ValueError: If the tree is not of that form.
    """
    if not isinstance(tree, Mapping) or len(tree) != 1:
        msg = f'a filter is an object with one operator, like {{"eq": {{"lang": "en"}}}}, got {tree!r}'
        raise ValueError(msg)
    ((operator, operand),) = tree.items()
    if operator in ("and", "or"):
        if not isinstance(operand, list):
            msg = f"{operator} takes a list of filters, got {operand!r}"
            raise ValueError(msg)
        parts = tuple(from_dict(part) for part in operand)
        return And(parts) if operator == "and" else Or(parts)
    if operator == "not":
        return Not(from_dict(operand))
    if operator == "exists":
        return Comparison("exists", operand)
    if not isinstance(operand, Mapping) or len(operand) != 1:
        msg = f'{operator} takes one field and its value, like {{"{operator}": {{"lang": "en"}}}}, got {operand!r}'
        raise ValueError(msg)
    ((field, value),) = operand.items()
    return Comparison(cast(Operator, operator), field, tuple(value) if isinstance(value, list) else value)


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda stored, value: stored == value,
    "in": lambda stored, value: stored == value,
    "gt": lambda stored, value: stored > value,
    "gte": lambda stored, value: stored >= value,
    "lt": lambda stored, value: stored < value,
    "lte": lambda stored, value: stored <= value,
    "contains": lambda stored, value: value in stored,
    "prefix": lambda stored, value: stored.startswith(value),
}


def _comparable(stored: object, value: object) -> bool:
    """Strings with strings, booleans with booleans, numbers with numbers."""
    if isinstance(stored, bool) or isinstance(value, bool):
        return isinstance(stored, bool) and isinstance(value, bool)
    if isinstance(stored, str) or isinstance(value, str):
        return isinstance(stored, str) and isinstance(value, str)
    return isinstance(stored, (int, float)) and isinstance(value, (int, float))


def _check_filters(parts: Iterable[object]) -> None:
    for part in parts:
        if not isinstance(part, Comparison | And | Or | Not):
            msg = f"filters are joined of filters, got {part!r}"
            raise ValueError(msg)


def _check_scalar(operator: str, value: object) -> None:
    if operator in ("contains", "prefix") and not isinstance(value, str):
        msg = f"{operator} takes a string, got {value!r}"
        raise ValueError(msg)
    if operator in ("gt", "gte", "lt", "lte") and isinstance(value, bool):
        msg = f"{operator} takes a number or a string, got {value!r}"
        raise ValueError(msg)
    if not isinstance(value, (str, bool, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        msg = f"{operator} takes a string, a finite number or a boolean, got {value!r}; for null use not_(exists(...))"
        raise ValueError(msg)
