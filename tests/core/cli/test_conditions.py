"""Filters and weights as they are typed."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import HybridWeights
from m3plugins.cli.conditions import parse_filter, parse_weights
from m3plugins.cli.errors import CallError
from m3plugins.indexing.filters import and_, eq, gt, gte, lt, lte, ne
from m3plugins.retrieval import filters

OPERATORS = {"=": eq, "!=": ne, ">": gt, ">=": gte, "<": lt, "<=": lte}
ORDERED = st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(string.ascii_letters + "-_.:/é狐", min_size=1, max_size=8)


@st.composite
def conditions(draw):
    """A condition as it is typed, fully quoted, and the filter that it says."""
    operator, field = draw(st.sampled_from(sorted(OPERATORS))), draw(st.text(min_size=1, max_size=8))
    value = draw(ORDERED | st.booleans() if operator in ("=", "!=") else ORDERED)
    spaces = draw(st.sampled_from(["", " "]))
    written = spaces.join([json.dumps(field, ensure_ascii=False), operator, json.dumps(value, ensure_ascii=False)])
    return written, OPERATORS[operator](field, value)


@given(st.lists(conditions(), min_size=1, max_size=4), st.booleans())
def test_what_is_quoted_is_read_as_it_was_meant_in_one_text_or_several(pairs, together):
    written, meant = zip(*pairs, strict=True)
    texts = [", ".join(written)] if together else list(written)
    assert parse_filter(texts) == (and_(*meant) if len(meant) > 1 else meant[0])


@given(st.lists(conditions(), min_size=1, max_size=3))
def test_the_json_form_says_the_same(pairs):
    for _, meant in pairs:
        assert parse_filter([json.dumps(filters.to_dict(meant))]) == meant


@given(WORDS, st.sampled_from(sorted(OPERATORS)), WORDS)
def test_bare_words_are_strings(field, operator, value):
    if value not in ("true", "false", "null"):
        assert parse_filter([f"{field}{operator}{value}"]) == OPERATORS[operator](field, value)


@given(st.text(max_size=20))
def test_any_text_is_a_filter_or_a_wrong_call_with_an_example(text):
    try:
        parse_filter([text])
    except CallError as err:
        assert str(err).startswith("--filter: ") and "for example --filter 'year>=2020" in str(err)


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        ([], None),
        (["year=2020"], eq("year", 2020)),
        (["year==2020"], eq("year", 2020)),
        (["score>=-1.5e3"], gte("score", -1500.0)),
        (["lang!=en, draft=false"], and_(ne("lang", "en"), eq("draft", False))),
        (["lang=en", '{"in": {"year": [1, 2]}}'], and_(eq("lang", "en"), filters.in_("year", [1, 2]))),
        (["author = Ada Lovelace "], eq("author", "Ada Lovelace")),
        (['author="Lovelace, Ada"'], eq("author", "Lovelace, Ada")),
        (['isbn="0262033844"'], eq("isbn", "0262033844")),
        (["code=007"], eq("code", "007")),  # no number of JSON's
        (["url=http://a/?b=c"], eq("url", "http://a/?b=c")),
        (['word="null"'], eq("word", "null")),
        (['arrow="=>"', 'a>="=b"'], and_(eq("arrow", "=>"), gte("a", "=b"))),
    ],
)
def test_what_is_typed_means(texts, meant):
    assert parse_filter(texts) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("year", "'year' is not a condition: write FIELD OPERATOR VALUE, with one of = != > >= < <="),
        ("", "is not a condition"),
        ("a=1,", "'a=1,' is not a condition"),
        ("a=Knuth, Donald", "'Donald' is not a condition"),
        ("year=>2020", "'year=>2020' is not a condition"),
        ("year=<2020", "(not => or =<)"),
        ("year=! 5", "is not a condition"),
        ("a!==b", "is not a condition"),
        ("a=1,b>>2", "'b>>2' is not a condition"),
        ("a=null", "null has no value"),
        ("a>true", "gt takes a number or a string, got True"),
        ("a=1e999", "finite number"),
        ('{"like": {"a": "b"}}', "operator must be one of"),
        ("[1]", "a filter is an object"),
        ("{", "Expecting property name"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_rule(text, said):
    with pytest.raises(CallError, match="--filter: ") as told:
        parse_filter([text])
    assert said in str(told.value)


def test_weights_that_are_not_named_are_zero():
    assert parse_weights("") == HybridWeights()
    assert parse_weights(" dense=1, bm25=0.02") == HybridWeights(dense=1, sparse=0, multi_vector=0, bm25=0.02)


@pytest.mark.parametrize("text", ["dense", "dense=x", "dens=1", "dense=-1", "dense=nan", "dense=0", "dense=1,dense=2"])
def test_weights_that_are_none_are_told_with_an_example(text):
    with pytest.raises(CallError, match="--weights: .*; for example --weights dense=1,sparse=0.3"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dense", "'dense' needs a number, got ''"),
        ("dense=x", "'dense' needs a number, got 'x'"),
        ("dens=1", "'dens' is none of dense, sparse"),
        ("dense=1, dense=2", "'dense' may be named only once"),
    ],
)
def test_what_is_wrong_with_weights_is_told(text, said):
    with pytest.raises(CallError) as told:
        parse_weights(text)
    assert said in str(told.value)
