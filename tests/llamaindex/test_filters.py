"""LlamaIndex' metadata filters mean on every index what they mean in LlamaIndex."""

from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from llama_index.vector_stores.m3plugins import M3VectorStore
from llama_index.vector_stores.m3plugins.filters import to_filter

from m3plugins.retrieval import filters as neutral

OF_A_LIST = [FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL]
OF_TEXT = [FilterOperator.TEXT_MATCH]
REFUSED = [FilterOperator.TEXT_MATCH_INSENSITIVE]
OF_A_VALUE = [each for each in FilterOperator if each not in (*OF_A_LIST, *OF_TEXT, *REFUSED)]

fields = st.sampled_from(["a", "b", "c"])
words = st.text("xyZ", max_size=2)
numbers = st.integers(-2, 2) | st.sampled_from([-0.5, 1.0])
scalars = words | numbers | st.booleans()
metadata = st.dictionaries(fields, scalars | st.none() | st.lists(scalars, max_size=3))
conditions = (
    st.builds(MetadataFilter, key=fields, operator=st.sampled_from(OF_A_VALUE), value=words | numbers)
    | st.builds(MetadataFilter, key=fields, operator=st.sampled_from(OF_TEXT), value=words)
    | st.builds(
        MetadataFilter,
        key=fields,
        operator=st.sampled_from(OF_A_LIST),
        value=st.lists(words, min_size=1, max_size=3) | st.lists(st.integers(-2, 2), min_size=1, max_size=3),
    )
)
flat = st.builds(MetadataFilters, filters=st.lists(conditions, max_size=3), condition=st.sampled_from(FilterCondition))
nested = st.recursive(
    flat,
    lambda parts: st.builds(
        MetadataFilters, filters=st.lists(parts | conditions, max_size=3), condition=st.sampled_from(FilterCondition)
    ),
    max_leaves=5,
)


def expected(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    """What the filters mean, in plain Python."""
    if not filters.filters:
        return True
    parts = [
        expected(part, metadata) if isinstance(part, MetadataFilters) else holds(part, metadata.get(part.key))
        for part in filters.filters
    ]
    if filters.condition == FilterCondition.NOT:
        return not any(parts)
    return any(parts) if filters.condition == FilterCondition.OR else all(parts)


def holds(test: MetadataFilter, stored: Any) -> bool:
    value, elements = test.value, stored if isinstance(stored, list) else [stored]
    comparable = [
        each for each in elements if isinstance(each, str) == isinstance(value, str) and type(each) in (str, int, float)
    ]
    match test.operator:
        case FilterOperator.EQ | FilterOperator.CONTAINS:
            return value in elements
        case FilterOperator.NE:
            return value not in elements
        case FilterOperator.IN | FilterOperator.ANY:
            return any(each in elements for each in value)
        case FilterOperator.NIN:
            return not any(each in elements for each in value)
        case FilterOperator.ALL:
            return all(each in elements for each in value)
        case FilterOperator.GT:
            return any(each > value for each in comparable)
        case FilterOperator.GTE:
            return any(each >= value for each in comparable)
        case FilterOperator.LT:
            return any(each < value for each in comparable)
        case FilterOperator.LTE:
            return any(each <= value for each in comparable)
        case FilterOperator.TEXT_MATCH:
            return any(value in each for each in comparable)
        case FilterOperator.IS_EMPTY:
            return stored in (None, []) or "" in elements
    raise AssertionError(test.operator)


def passes(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    wanted = to_filter(filters)
    return wanted is None or neutral.matches(wanted, metadata)


@given(filters=nested, metadata=metadata)
@settings(max_examples=500)
def test_the_neutral_filter_means_the_same(filters: MetadataFilters, metadata: dict[str, Any]):
    assert passes(filters, metadata) == expected(filters, metadata)


@pytest.mark.skipif(
    tuple(map(int, version("llama-index-core").split("."))) < (0, 14, 23),
    reason="LlamaIndex' own store took != for false where the field is missing",
)
@given(filters=flat, metadata=st.dictionaries(fields, words | numbers | st.none()))
@settings(max_examples=500)
def test_it_agrees_with_llama_indexs_own_store_where_that_has_an_answer(
    filters: MetadataFilters, metadata: dict[str, Any]
):
    of_a_list_field = {FilterOperator.CONTAINS, FilterOperator.ANY, FilterOperator.ALL}  # there about characters
    assume(not of_a_list_field & {test.operator for test in filters.filters})
    try:
        theirs = build_metadata_filter_fn(lambda _: metadata, filters)("")
    except TypeError:  # it compares a string with a number
        assume(False)
    assert passes(filters, metadata) == theirs


VALUES = ["x", "xy", "Z", "", 1, 0, -0.5, True, False, None, [], ["x", "y"], ["xy", 1], [2, False], [""]]


@given(filters=nested)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_index_gives_the_nodes_that_match(store: M3VectorStore, filters: MetadataFilters):
    if not store.get_nodes(["0"]):
        store.add([TextNode(id_=str(i), text="fox", metadata={"a": v, "b": i % 3}) for i, v in enumerate(VALUES)])
    found = {node.node_id for node in store.get_nodes(filters=filters)}
    assert found == {str(i) for i, v in enumerate(VALUES) if expected(filters, {"a": v, "b": i % 3})}


def test_no_filter_asks_for_nothing():
    assert to_filter(None) is None
    assert [to_filter(MetadataFilters(filters=[], condition=each)) for each in FilterCondition] == [None] * 3


def test_a_neutral_filter_stays_as_it_is():
    assert to_filter(neutral.eq("a", 1)) == neutral.eq("a", 1)


@pytest.mark.parametrize(
    ("operator", "value", "message"),
    [
        ("==", None, "'==' on 'a' takes one value, got None"),
        ("!=", None, "takes one value"),
        ("==", ["x"], "takes one value"),
        (">", ["x"], "takes one value"),
        ("in", "x", "'in' on 'a' takes a list of values, got 'x'"),
        ("nin", 1, "takes a list"),
        ("all", None, "takes a list"),
        ("text_match", 1, "no index can do 'text_match' with 1"),
        ("text_match_insensitive", "x", "no index can do 'text_match_insensitive'"),
    ],
)
def test_what_no_index_can_do_is_refused(operator: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        to_filter(MetadataFilters(filters=[MetadataFilter(key="a", operator=operator, value=value)]))


@pytest.mark.parametrize("filters", [{"a": 1}, "a == 1", 3, [MetadataFilter(key="a", value=1)]])
def test_what_is_no_filter_is_refused(filters: object):
    with pytest.raises(TypeError, match="filters must be MetadataFilters"):
        to_filter(filters)
