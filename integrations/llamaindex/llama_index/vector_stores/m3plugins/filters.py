"""LlamaIndex' metadata filters as the neutral ones."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from m3plugins.indexing.filters import Filter, Scalar
from m3plugins.retrieval import filters as neutral

_RANGES = {
    FilterOperator.GT: neutral.gt,
    FilterOperator.GTE: neutral.gte,
    FilterOperator.LT: neutral.lt,
    FilterOperator.LTE: neutral.lte,
}


def to_filter(filters: MetadataFilters | Filter | None) -> Filter | None:
    """Converts filters to a neutral one; None where nothing is asked for.

    A list field passes where one of its elements does (`all` asks each value of some element); a field that is not
    there passes only `!=`, `nin` and `is_empty`. 1 and 0 are also true and false, for which LlamaIndex' filters have no
    value. `contains` and `any` are about elements, `text_match` is about substrings, wherever they begin. `is_empty` is
    true of no value, "" and []; and of what a filter cannot look into, a nested object.

    Raises:
        TypeError: If it is no filter.
        ValueError: If an operator has no neutral twin (`text_match_insensitive`), or a value does not suit it.
    """
    if filters is None or isinstance(filters, Filter):
        return filters
    if not isinstance(filters, MetadataFilters):
        msg = f"filters must be MetadataFilters (or of m3plugins.indexing.filters), got {type(filters).__name__}"
        raise TypeError(msg)
    return _join(filters) if filters.filters else None


def _join(filters: MetadataFilters) -> Filter:
    parts = [_join(part) if isinstance(part, MetadataFilters) else _condition(part) for part in filters.filters]
    if not parts or filters.condition in (FilterCondition.AND, None):
        return neutral.and_(*parts)
    some = neutral.or_(*parts)
    return neutral.not_(some) if filters.condition == FilterCondition.NOT else some


def _condition(test: MetadataFilter) -> Filter:
    field, operator = test.key, test.operator
    if operator == FilterOperator.IS_EMPTY:
        return _is_empty(field)
    if operator in (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL):
        values = _values(test)
        if operator == FilterOperator.ALL:
            return neutral.and_(*(_equal(field, [value]) for value in values))
        some = _equal(field, values)
        return neutral.not_(some) if operator == FilterOperator.NIN else some
    value = _value(test)
    if operator in (FilterOperator.EQ, FilterOperator.CONTAINS):
        return _equal(field, [value])
    if operator == FilterOperator.NE:
        return neutral.not_(_equal(field, [value]))
    if operator == FilterOperator.TEXT_MATCH and isinstance(value, str):
        return neutral.contains(field, value)
    if operator in _RANGES:
        return _RANGES[operator](field, value)
    msg = f"no index can do {operator.value!r} with {value!r} on {field!r}; use text_match with a string, or =="
    raise ValueError(msg)


def _equal(field: str, values: Sequence[Scalar]) -> Filter:
    flags = [bool(value) for value in values if not isinstance(value, str) and value in (0, 1)]
    return neutral.in_(field, [*values, *flags])


def _is_empty(field: str) -> Filter:
    """No element that is a string, a number or a boolean, or only the empty string."""
    anything = neutral.or_(
        neutral.prefix(field, ""),
        neutral.gte(field, 0),
        neutral.lt(field, 0),
        neutral.in_(field, [True, False]),
    )
    return neutral.or_(neutral.eq(field, ""), neutral.not_(anything))


def _value(test: MetadataFilter) -> Scalar:
    if isinstance(test.value, list | None):
        msg = f"{test.operator.value!r} on {test.key!r} takes one value, got {test.value!r}; see also in, any, is_empty"
        raise ValueError(msg)
    return test.value


def _values(test: MetadataFilter) -> Sequence[Scalar]:
    if not isinstance(test.value, list):
        msg = f"{test.operator.value!r} on {test.key!r} takes a list of values, got {test.value!r}; for one use =="
        raise ValueError(msg)
    return test.value
