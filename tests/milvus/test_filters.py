import json
import string

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins.indexing.filters import matches
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusIndexError
from m3plugins_milvus.filter_tokens import bounds, filter_tokens
from m3plugins_milvus.filters import NOTHING, compile_filter
from m3plugins_milvus.native import field_names

HOSTILE = [
    "",
    " ",
    "a",
    "A",
    "ab",
    '"',
    "'",
    "\\",
    '\\"',
    "%",
    "_",
    "a%",
    "a\nb",
    "\r",
    "\t\b\f\x00\x1f",
    "\u2028",
    "é",
    "e\u0301",
    "狐",
    "🦊",
    '"] or id != "',
    '" or 1 == 1 or "" == "',
    "x') or true or ('",
    "{x}",
    "$meta",
    "true",
    "1",
    "x" * 23,
    "x" * 24,
    "x" * 25,
    "x" * 24 + "🦊",
    "\uffff",
]
NUMBERS = [0, 1, -1, 2, 1.0, 0.1, -0.0, 1.5, 1e300, 5e-324, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**53 - 1, -(2**53)]
FIELDS = ["a", "lang", "", "metadata", "id", "a.b", 'a"]', "a\\", "ключ", "\x00", "a\nb", "%", "or"]

scalars = st.sampled_from([*HOSTILE, *NUMBERS, True, False])
json_values = st.one_of(
    scalars,
    st.text(max_size=5),
    st.none(),
    st.lists(st.one_of(scalars, st.none(), st.just([1]), st.just({"a": 1})), max_size=4),
    st.just({"a": "b"}),
)
names = st.sampled_from([name for name in FIELDS if name])
metadata = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4)
comparisons = st.one_of(
    st.builds(filters.eq, names, scalars),
    st.builds(filters.ne, names, scalars),
    st.builds(filters.in_, names, st.lists(scalars, max_size=4)),
    st.builds(filters.exists, names),
    *(
        st.builds(build, names, st.sampled_from([*HOSTILE, *NUMBERS]))
        for build in (filters.gt, filters.gte, filters.lt, filters.lte)
    ),
    st.builds(filters.contains, names, st.sampled_from(HOSTILE)),
    st.builds(filters.prefix, names, st.sampled_from(HOSTILE)),
)
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(filters.not_, inner),
        st.lists(inner, max_size=3).map(lambda parts: filters.and_(*parts)),
        st.lists(inner, max_size=3).map(lambda parts: filters.or_(*parts)),
    ),
    max_leaves=6,
)
slow = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(rows=st.lists(metadata, min_size=20, max_size=20), trees=st.lists(trees, min_size=10, max_size=10))
@settings(slow, max_examples=20)
def test_agrees_with_the_definition_on_any_metadata(scratch, embedding, encoder, rows, trees):
    documents = [Document(id=str(number), text="same", metadata=row) for number, row in enumerate(rows)]
    assert not scratch.upsert(documents, embeddings=[embedding] * len(documents)).failed
    query = encoder.encode_queries(["The quick brown fox"])
    for tree in trees:
        wanted = {document.id for document in documents if matches(tree, document.metadata)}
        assert {document.id for document in scratch.scan(tree)} == wanted
        assert scratch.count(tree) == len(wanted)
        for hits in scratch.candidates(query, 20, tree).values():
            assert {hit.id for hit in hits} == wanted


@given(row=metadata, tree=trees)
@settings(max_examples=300, deadline=None)
def test_expressions_hold_nothing_of_the_callers(row, tree):
    allowed = set(string.ascii_letters + string.digits + '()"% =<>$[].+-')
    assert set(compile_filter(tree).expression) <= allowed
    assert set(filter_tokens(row) + json.dumps(bounds(row))) <= allowed | set("{}:,")


def test_all_but_substrings_and_extremes_need_no_check():
    exact = [filters.ne("a", 1), filters.in_("b", ["x", 2]), filters.exists("c"), filters.gt("d", -1.5)]
    assert compile_filter(filters.not_(filters.and_(*exact, filters.lte("e", "2024-01-01")))).check is None
    for other in (
        filters.contains("a", "b"),
        filters.prefix("a", "b"),
        filters.gt("a", 2**53),
        filters.lt("a", "x" * 24),
    ):
        assert compile_filter(filters.and_(*exact, other)).check is not None


def test_no_parts_mean_all_and_nothing():
    assert compile_filter(filters.and_()).expression == ""
    assert compile_filter(filters.or_()).expression == NOTHING


@pytest.mark.parametrize(
    "tree",
    [
        filters.in_("number", range(2000)),
        filters.not_(filters.in_("number", range(50, 2000))),
        filters.or_(*(filters.eq("number", n) for n in range(2000))),
    ],
)
def test_large_filters_work(index, documents, tree):
    assert index.count(tree) == sum(matches(tree, document.metadata) for document in documents)


def test_deep_filters_work(index, documents):
    tree = filters.eq("lang", "en")
    for _ in range(50):
        tree = filters.and_(filters.or_(tree, filters.eq("lang", "de")), filters.not_(filters.not_(tree)))
        tree = (
            tree if len(repr(tree)) < 5000 else filters.and_(filters.eq("lang", "en"), filters.or_(filters.ne("x", 1)))
        )
    for _ in range(60):
        tree = filters.or_(filters.and_(tree))
    assert index.count(tree) == sum(matches(tree, document.metadata) for document in documents)


UNKNOWN = [
    *('lang == "en"', 'not (lang == "en")', 'LANG in ["en"]', "lang is null", "exists lang", "id == lang"),
    *('json_contains(lang, "a")', '$meta["lang"] == "en"', 'metadata["n"] > 1 and (id == "a" or lang like "e%")'),
]
KNOWN = [
    *('metadata["lang"] == "en"', "metadata['lang'] == 'en'", 'exists metadata["lang"]', 'NOT (id == "lang")'),
    *('json_contains(metadata["tags"], "lang")', 'id in ["lang", \'lang "x"\']', "token_count > 1e3 or true"),
    *('id == "a \\" lang == "', "parent_id is not null", 'title == "lang" AND text like "%lang%"'),
]


@pytest.mark.parametrize("expression", UNKNOWN)
def test_an_expression_about_a_field_that_is_not_there_is_refused_with_how_to_spell_it(index, embedding, expression):
    told = (
        r"""\(id, title, text, parent_id, metadata\), got '(?i:lang)', .*; metadata are spelt metadata\["(?i:lang)"\]"""
    )
    for verb in (index.count, lambda wanted: list(index.scan(wanted)), lambda wanted: index.delete(filter=wanted)):
        with pytest.raises(ValueError, match=told):
            verb(expression)
    with pytest.raises(ValueError, match=told):
        index.candidates(embedding, 3, expression)


@pytest.mark.parametrize("expression", KNOWN)
def test_an_expression_about_the_fields_that_there_are_reaches_milvus(index, expression):
    assert index.count(expression) >= 0


def test_names_are_told_from_all_else_in_an_expression():
    names = {
        'text_match(text, "fox dog", minimum_should_match=2) and random_sample(0.5)': {"text"},
        'at > ISO "2025-01-01T00:00:00Z" + INTERVAL "P3D"': {"at"},
        "a==b and c!=1": {"a", "b", "c"},
        "1 < a <= 0x1F and b * 2e5 > -3.5": {"a", "b"},
        "größe > 1": {"größe"},
        "o[\"p\"]['q'][0] == 1": {"o"},
    }
    assert {expression: field_names(expression) for expression in names} == names


def test_native_expressions_pass_through(index):
    assert index.count('metadata["number"] < 10 and id != "doc-0"') == 9
    assert {d.id for d in index.scan('parent_id == "parent-3"')} == {"doc-3"}


@pytest.mark.parametrize("filter", ["", "  "])
def test_an_empty_expression_is_refused(index, filter):
    with pytest.raises(ValueError, match="must not be empty"):
        index.count(filter)


def test_a_dict_is_refused_with_the_way_out(index):
    with pytest.raises(TypeError, match="from_dict"):
        index.count({"eq": {"a": 1}})


def test_a_wrong_expression_is_one_clear_error(index, capfd, caplog):
    with pytest.raises(MilvusIndexError, match=f"cannot .*'{index.name}'.*"):
        index.count("bad (((")
    assert "Traceback" not in capfd.readouterr().err + caplog.text
