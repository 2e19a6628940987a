import enum
import string

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins.indexing.filters import Comparison
from m3plugins_elasticsearch.filter_tokens import (
    CUT,
    EXACT,
    after,
    conditions,
    exists_token,
    filter_tokens,
    head,
    sortable,
    tokens,
    value_token,
)

MAX_TERM = 32_766
MAX_AUTOMATON = 1_000
EXTREMES = [0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, 2**53, 2**53 + 1, 2.0**53, 2**1024, 2**4096 - 1]

floats = st.floats(allow_nan=False, allow_infinity=False)
integers = st.one_of(st.integers(), st.integers(-(2**4096) + 1, 2**4096 - 1))
numbers = st.one_of(floats, integers, st.sampled_from([*EXTREMES, *(-number for number in EXTREMES)]))
pairs = st.one_of(
    st.tuples(numbers, numbers),
    integers.map(lambda number: (number, number + 1)),
    integers.filter(lambda number: abs(number) < 2**1000).map(lambda number: (number, float(number))),
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def utf8(text):
    return text.encode()


@given(pairs)
def test_digits_sort_as_numbers_do(pair):
    less, more = sorted(pair)
    assert (sortable(less) < sortable(more)) == (less < more)
    assert (sortable(less) == sortable(more)) == (less == more)


@given(numbers)
def test_digits_are_ascii_and_within_what_a_range_takes(number):
    assert set(sortable(number)) <= set(string.ascii_uppercase + string.digits + "nop~")
    assert len(value_token("a", number)) < MAX_AUTOMATON


@pytest.mark.parametrize("exponent", [4096, 5000, 100_000])
def test_numbers_beyond_any_stored_one_compare_as_such(exponent):
    assert sortable(2**exponent) > sortable(2**4096 - 1)
    assert sortable(-(2**exponent)) < sortable(-(2**4096) + 1)


@given(texts, texts)
def test_tokens_of_strings_sort_by_code_point(one, other):
    assert (utf8(value_token("a", one)) < utf8(value_token("a", other))) == (one < other)


@given(st.one_of(texts.filter(bool), st.just("a\U0010ffff\U0010ffff"), st.just("a\ud7ff")).map("x".__add__), texts)
def test_after_is_above_all_that_begin_with_a_token_and_nothing_less_is(token, rest):
    assert utf8(token + rest) < utf8(after(token))
    assert utf8(token + "\U0010ffff" * 50) < utf8(after(token))
    near = token[:-1] + rest
    assert near.startswith(token) == (utf8(token) <= utf8(near) < utf8(after(token)))


@pytest.mark.parametrize("values", [("1", 1), (1, True), (0, False), ("true", True), ("", 0), ("o", 0), ("x", "X")])
def test_values_that_differ_have_different_tokens(values):
    assert len({value_token("a", value) for value in values}) == len(values)


def test_equal_numbers_have_one_token():
    assert value_token("a", 1) == value_token("a", 1.0)
    assert value_token("a", 0) == value_token("a", -0.0)


@given(st.lists(st.text(), unique=True, min_size=2))
def test_fields_never_share_a_token(fields):
    heads = {head(field, "s") for field in fields}
    assert len(heads) == len(fields)
    assert {len(head) for head in heads} == {25}
    assert set("".join(heads)) <= set(string.ascii_uppercase + "234567s")


def test_null_is_absent_and_structures_only_exist():
    assert filter_tokens({"a": None}) == []
    for stored in ({"b": 1}, [], [None], [[1], {"b": 2}]):
        assert filter_tokens({"a": stored}) == [exists_token("a")]


def test_tokens_are_distinct():
    assert filter_tokens({"a": ["x", 1, "x", 1.0]}) == [exists_token("a"), value_token("a", "x"), value_token("a", 1)]


def test_members_of_enumerations_count_as_their_values():
    class Lang(str, enum.Enum):
        EN = "en"

    class Year(enum.IntEnum):
        NOW = 2020

    assert filter_tokens({"lang": Lang.EN, "year": Year.NOW}) == filter_tokens({"lang": "en", "year": 2020})
    assert conditions(Comparison("prefix", "lang", Lang.EN)) == conditions(Comparison("prefix", "lang", "en"))


@pytest.mark.parametrize("character", ["x", "é", "狐", "🦊", "\x00"])
@pytest.mark.parametrize("length", [CUT, CUT + 1, 40_000])
def test_every_token_fits_in_a_term(character, length):
    assert max(len(utf8(token)) for token in filter_tokens({"a": character * length})) <= MAX_TERM


def test_a_whole_string_is_never_taken_for_a_cut_one():
    long = "x" * CUT + "y"
    (cut,) = (token for token in filter_tokens({"a": long}) if token.startswith(head("a", "l")))
    assert value_token("a", cut.removeprefix(head("a", "l"))) != cut
    assert value_token("a", long) != value_token("a", long + "y")


@pytest.mark.parametrize("bound", ["", "x", "x" * EXACT, "y", "\x00", "w\U0010ffff", "x" * (EXACT - 1) + "y"])
@pytest.mark.parametrize("rest", ["", "\x00", "A", "x" * 5_000])
def test_a_cut_string_compares_with_bounds_as_the_whole_does(bound, rest):
    stored = "x" * CUT + "x" + rest
    token = value_token("a", stored)
    assert (utf8(token) > utf8(head("a", "l") + bound)) == (stored > bound)


@pytest.mark.parametrize("length", [CUT + 1, CUT + EXACT, 2 * CUT - EXACT, 2 * CUT - EXACT + 1, 40_000])
def test_every_short_substring_of_a_long_string_is_in_a_window(length):
    text = "".join(chr(0x4E00 + number % 20_000) for number in range(length))
    windows = [token[25:] for token in filter_tokens({"a": text}) if token.startswith(head("a", "w"))]
    assert all(any(text[n : n + EXACT] in window for window in windows) for n in range(0, length - EXACT + 1, 7))
    assert text[-EXACT:] in windows[-1]
    assert sum(map(len, windows)) < 1.1 * length + CUT


@given(
    st.sampled_from(["gt", "lt", "prefix", "contains"]), st.sampled_from(["x", "🦊", "*", "\\"]), st.integers(0, 999)
)
def test_no_condition_is_longer_than_an_automaton_takes(operator, character, length):
    for kind, body in conditions(Comparison(operator, "a", character * length)):
        for token in body.values() if isinstance(body, dict) else [body]:
            assert len(utf8(token)) <= MAX_AUTOMATON - 25, kind


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "\ud83d\ude00"])
def test_lone_surrogates_are_never_asked_for(value):
    assert tokens(Comparison("in", "a", (value, "b"))) == [value_token("a", "b")]
    for operator in ("gt", "gte", "lt", "lte", "prefix", "contains"):
        assert orjson.dumps(conditions(Comparison(operator, value, value)))
