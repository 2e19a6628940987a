"""The filter language: its semantics by example, its JSON form by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins.retrieval import filters

FIELDS = st.sampled_from(["a", "b", "", "weird \"' key"]).filter(bool)
SCALARS = st.one_of(st.text(max_size=5), st.integers(-5, 5), st.floats(-5, 5), st.booleans())
ORDERED = st.one_of(st.text(max_size=5), st.integers(-5, 5), st.floats(-5, 5))
LEAVES = st.one_of(
    st.builds(filters.eq, FIELDS, SCALARS),
    st.builds(filters.ne, FIELDS, SCALARS),
    st.builds(filters.in_, FIELDS, st.lists(SCALARS, max_size=3)),
    *(st.builds(make, FIELDS, ORDERED) for make in (filters.gt, filters.gte, filters.lt, filters.lte)),
    st.builds(filters.exists, FIELDS),
    *(st.builds(make, FIELDS, st.text(max_size=3)) for make in (filters.contains, filters.prefix)),
)
FILTERS = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.lists(part, max_size=3).map(lambda parts: filters.and_(*parts)),
        st.lists(part, max_size=3).map(lambda parts: filters.or_(*parts)),
        part.map(filters.not_),
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(
    FIELDS, st.one_of(st.none(), SCALARS, st.lists(st.one_of(st.none(), SCALARS), max_size=3)), max_size=3
)


@given(FILTERS)
def test_every_filter_survives_its_json_form(tree):
    assert filters.from_dict(filters.to_dict(tree)) == tree


@given(FILTERS, METADATA)
def test_not_is_the_complement(tree, metadata):
    assert filters.matches(filters.not_(tree), metadata) != filters.matches(tree, metadata)


@given(FILTERS, FILTERS, METADATA)
def test_de_morgan(left, right, metadata):
    neither = filters.not_(filters.or_(left, right))
    assert filters.matches(neither, metadata) == filters.matches(
        filters.and_(filters.not_(left), filters.not_(right)), metadata
    )


@pytest.mark.parametrize(
    ("tree", "metadata", "expected"),
    [
        (filters.eq("a", 1), {"a": 1}, True),
        (filters.eq("a", 1), {"a": 1.0}, True),
        (filters.eq("a", 1), {"a": True}, False),  # booleans are not integers
        (filters.eq("a", True), {"a": 1}, False),
        (filters.eq("a", "1"), {"a": 1}, False),
        (filters.eq("a", "x"), {"a": ["y", "x"]}, True),  # a list matches if an element does
        (filters.gt("a", 2), {"a": [1, 3]}, True),
        (filters.eq("a", "x"), {}, False),  # missing and null match only ne and not_
        (filters.eq("a", "x"), {"a": None}, False),
        (filters.ne("a", "x"), {}, True),
        (filters.ne("a", "x"), {"a": None}, True),
        (filters.ne("a", "x"), {"a": ["x", "y"]}, False),
        (filters.not_(filters.gt("a", 1)), {}, True),
        (filters.exists("a"), {"a": None}, False),
        (filters.exists("a"), {"a": False}, True),
        (filters.exists("a"), {"a": []}, True),
        (filters.in_("a", ["x", 2]), {"a": 2}, True),
        (filters.in_("a", []), {"a": 2}, False),
        (filters.lt("a", "b"), {"a": "B"}, True),  # by code point
        (filters.lt("a", "z"), {"a": "é"}, False),
        (filters.lt("a", 1), {"a": "0"}, False),
        (filters.contains("a", "ell"), {"a": "hello"}, True),
        (filters.contains("a", "%"), {"a": "hello"}, False),
        (filters.prefix("a", "he"), {"a": ["x", "hello"]}, True),
        (filters.eq("a", "x"), {"a": {"x": 1}}, False),
        (filters.and_(), {}, True),
        (filters.or_(), {}, False),
    ],
)
def test_semantics(tree, metadata, expected):
    assert filters.matches(tree, metadata) is expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: filters.eq("a", None), "for null use"),
        (lambda: filters.eq("", 1), "field must be a non-empty"),
        (lambda: filters.gt("a", True), "gt takes a number or a string"),
        (lambda: filters.eq("a", float("nan")), "finite number"),
        (lambda: filters.prefix("a", 3), "prefix takes a string"),
        (lambda: filters.from_dict({"like": {"a": "x"}}), "operator must be one of"),
        (lambda: filters.from_dict({"eq": {"a": 1, "b": 2}}), "one field and its value"),
        (lambda: filters.from_dict({"and": {"eq": {"a": 1}}}), "takes a list of filters"),
        (lambda: filters.from_dict([]), "a filter is an object"),
        (lambda: filters.in_("a", "xy"), "in takes a list of values"),
        (lambda: filters.and_(filters.exists("a"), None), "filters are joined of filters"),
        (lambda: filters.not_("a"), "filters are joined of filters"),
    ],
)
def test_bad_filters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
