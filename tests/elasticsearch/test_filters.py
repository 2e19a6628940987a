import uuid

import pytest
from elasticsearch import Elasticsearch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from m3plugins.indexing.filters import matches
from m3plugins.retrieval import filters
from m3plugins_elasticsearch.filter_tokens import CUT, EXACT, filter_tokens
from m3plugins_elasticsearch.filters import Plan, check_fields, compile_filter, field_names

pytestmark = pytest.mark.elasticsearch9

HOSTILE = [
    *("", " ", "a", "A", "ab", '"', "'", "\\", '\\"', "*", "?", "a*", "\\*", "a?b", "**", "a\nb", "\r", "\u2028"),
    *("\x00", "a\x00", "\x00\x00", "\t\b\f\x00\x1f", "é", "e\u0301", "狐", "🦊", "\ud7ff", "\ue000", "\uffff"),
    *("\U0010ffff", "a\U0010ffff", '"}}]}', "metadata.a:*", "true", "1", "o", "x" * EXACT, "x" * EXACT + "y"),
]
LONG = ["x" * CUT, "x" * CUT + "y", "x" * CUT + "z", "🦊" * CUT + "a*", "ab\x00?" * 10_000, "y" + "x" * 40_000 + "狐🦊"]
NUMBERS = [
    *(0, 1, -1, 2, 1.0, 0.1, -0.0, 1.5, -1.5, 1e300, -1e300, 5e-324, 2**53, 2**53 + 1, -(2**53) - 1, 2.0**53),
    *(2**63, -(2**63), 10**30, 10**30 + 1, 2**4096 - 1, 1 - 2**4096),
]
SURROGATES = ["\ud800", "a\udfff", "x\ud83d\ude00", "x" * EXACT + "\ud800"]
FIELDS = ["a", "lang", "", "metadata", "_id", "a.b", 'a"]', "a\\", "ключ", "\x00", "a\nb", "*", "k" * 5_000]


def one_of(*values):
    """`st.sampled_from`, without all of the long ones in what Hypothesis prints."""
    return st.integers(0, len(values) - 1).map(lambda position: values[position])


stored_scalars = one_of(*HOSTILE, *LONG, *NUMBERS, True, False)
wanted_scalars = one_of(*HOSTILE, *LONG, *SURROGATES, *NUMBERS, 2**5000, -(2**5000), True, False)
wanted_strings = one_of(*HOSTILE, *LONG, *SURROGATES)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
json_values = st.one_of(
    stored_scalars,
    texts,
    st.none(),
    st.lists(st.one_of(stored_scalars, st.none(), st.just([1]), st.just({"a": 1})), max_size=4),
    st.just({"a": "b"}),
)
names = one_of(*(name for name in FIELDS if name), "\ud800")
metadata = st.dictionaries(one_of(*FIELDS), json_values, max_size=4)
comparisons = st.one_of(
    st.builds(filters.eq, names, wanted_scalars),
    st.builds(filters.ne, names, wanted_scalars),
    st.builds(filters.in_, names, st.lists(wanted_scalars, max_size=4)),
    st.builds(filters.exists, names),
    *(
        st.builds(build, names, st.one_of(wanted_strings, one_of(*NUMBERS), texts))
        for build in (filters.gt, filters.gte, filters.lt, filters.lte)
    ),
    st.builds(filters.contains, names, st.one_of(wanted_strings, texts)),
    st.builds(filters.prefix, names, st.one_of(wanted_strings, texts)),
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


class Shelf:
    """An index of nothing but filter tokens, and what they were made of."""

    def __init__(self, client, name):
        self.client, self.name, self.rows = client, name, []

    def put(self, rows, *, with_metadata=False):
        """Replaces all documents, by empty ones where these are fewer."""
        self.rows = [*rows, *({} for _ in self.rows[len(rows) :])]
        actions = []
        for number, row in enumerate(self.rows):
            actions += [
                {"index": {"_id": str(number)}},
                {"facets": filter_tokens(row), **({"metadata": row} if with_metadata else {})},
            ]
        assert not self.client.bulk(index=self.name, operations=actions, refresh=True)["errors"]

    def served(self, *plans):
        """What the node says of each plan."""
        searches = []
        for plan in plans:
            query = {"bool": {"filter": [plan.query]}} if plan.query else {"match_all": {}}
            searches += [{}, {"query": query, "size": 1000, "_source": False}]
        answers = self.client.msearch(index=self.name, searches=searches)["responses"]
        assert not [answer["error"] for answer in answers if "error" in answer]
        return [{int(hit["_id"]) for hit in answer["hits"]["hits"]} for answer in answers]

    def check(self, *trees):
        """That the node and the check, or the node alone where there is no check, agree with the definition."""
        plans = [compile_filter(tree) for tree in trees]
        for tree, plan, served in zip(trees, plans, self.served(*plans), strict=True):
            wanted = {number for number, row in enumerate(self.rows) if matches(tree, row)}
            assert {number for number in served if plan.accepts(self.rows[number])} == wanted, (tree, plan)
            assert plan.check is not None or served == wanted


@pytest.fixture(scope="module")
def make_shelf(es_url):
    client, made = Elasticsearch(es_url, request_timeout=60), []

    def make():
        name = f"m3-test-{uuid.uuid4().hex}"
        mapping = {"facets": {"type": "keyword"}, "metadata": {"type": "flattened"}}
        made.append(client.indices.create(index=name, mappings={"dynamic": "strict", "properties": mapping})["index"])
        return Shelf(client, name)

    yield make
    for name in made:
        client.indices.delete(index=name)
    client.close()


@pytest.fixture(scope="module")
def scratch(make_shelf):
    """Written to by whoever needs it."""
    return make_shelf()


@pytest.fixture(scope="module")
def shelf(make_shelf):
    """To be read only."""
    shelf = make_shelf()
    langs = ["en", "de", "ja"]
    shelf.put([{"number": n, "lang": langs[n % 3], "name": f"name {n:03}", "even": n % 2 == 0} for n in range(100)])
    return shelf


@given(rows=st.lists(metadata, min_size=20, max_size=20), trees=st.lists(trees, min_size=20, max_size=20))
@settings(slow, max_examples=40)
def test_agrees_with_the_definition_on_any_metadata(scratch, rows, trees):
    scratch.put(rows)
    scratch.check(*trees)


@pytest.mark.parametrize("build", [filters.eq, filters.gt, filters.gte, filters.lt, filters.lte])
def test_every_two_values_compare_as_in_python(scratch, build):
    values = [*HOSTILE, *LONG, *NUMBERS]
    scratch.put([{"a": value} for value in values])
    bounds = [*values, *SURROGATES, 2**5000, -(2**5000)]
    scratch.check(*(tree for bound in bounds for tree in (build("a", bound), filters.not_(build("a", bound)))))


@pytest.mark.parametrize("build", [filters.contains, filters.prefix])
def test_every_part_is_found_in_every_value(scratch, build):
    values = [*HOSTILE, *LONG, *NUMBERS]
    scratch.put([{"a": value} for value in values])
    parts = [*HOSTILE, *LONG, *SURROGATES, "🦊a", "a*", "狐🦊", "xxy", "\x00?ab", "?a", "x" * 7_999, "0", "A", "B"]
    scratch.check(*(tree for part in parts for tree in (build("a", part), filters.not_(build("a", part)))))


@given(tree=trees)
@settings(max_examples=300, deadline=None)
def test_filters_about_short_strings_need_no_check(tree):
    assert compile_filter(tree).check is None or _longest(tree) > EXACT or _has_surrogate(tree)


def test_a_long_string_is_found_by_any_short_part_without_a_check(scratch):
    text = "".join(chr(0x4E00 + number % 20_000) for number in range(40_000))
    scratch.put([{"a": text}, {"a": text[:20_000]}, {"a": text[::-1]}])
    parts = [text[start : start + EXACT] for start in range(0, 40_000, 1_111)]
    trees = [filters.contains("a", part) for part in parts] + [filters.eq("a", text), filters.ne("a", text)]
    assert not [tree for tree in trees if compile_filter(tree).check]
    scratch.check(*trees)


def test_no_parts_mean_all_and_nothing(shelf):
    assert compile_filter(filters.and_()) == compile_filter(filters.not_(filters.in_("a", []))) == Plan()
    assert compile_filter(filters.or_()) == compile_filter(filters.in_("a", [])) == Plan({"match_none": {}})
    shelf.check(filters.and_(), filters.or_())


def test_joins_of_a_kind_are_one_and_so_are_their_values():
    tree = filters.or_(filters.or_(filters.eq("a", 1), filters.not_(filters.ne("a", 2))), filters.in_("b", [3]))
    (values,) = compile_filter(tree, "path.facets").query["terms"].values()
    assert len(values) == 3
    assert compile_filter(filters.not_(tree), "path.facets").query == {
        "bool": {"must_not": [{"terms": {"path.facets": values}}]}
    }


@pytest.mark.parametrize(
    "tree",
    [
        filters.in_("number", range(50, 70_000)),
        filters.not_(filters.in_("number", range(50, 70_000))),
        filters.and_(filters.ne("lang", "en"), filters.in_("number", range(50, 70_000)), filters.gt("number", 60)),
        filters.or_(*(filters.eq("number", number) for number in range(50, 5_000))),
        filters.and_(*(filters.ne("number", number) for number in range(50, 5_000))),
        filters.or_(
            *(filters.in_("number", [number, -number]) for number in range(50, 5_000)), filters.lt("number", 9)
        ),
    ],
    ids=["in", "not in", "in and others", "or", "and", "in or others"],
)
def test_many_values_need_no_check(shelf, tree):
    assert compile_filter(tree).check is None
    shelf.check(tree)


@pytest.mark.parametrize(
    "tree",
    [
        filters.or_(*(filters.gt("number", number) for number in range(50, 5_000))),
        filters.and_(*(filters.gt("number", -number) for number in range(5_000)), filters.eq("lang", "en")),
        filters.and_(*(filters.or_(filters.lt("number", n), filters.prefix("lang", "e")) for n in range(50, 5_000))),
        filters.not_(filters.and_(*(filters.eq("number", number) for number in range(5_000)))),
        filters.and_(filters.eq("lang", "de"), filters.in_("lang", ["de" * 4_000 + str(n) for n in range(1_000)])),
    ],
    ids=["or", "and", "and of or", "or of not", "in of long strings"],
)
def test_what_is_too_much_for_a_node_is_checked(shelf, tree):
    assert compile_filter(tree).check is not None
    shelf.check(tree)


def test_of_too_many_parts_as_many_are_asked_for_as_a_node_takes(shelf):
    tree = filters.and_(filters.eq("lang", "en"), *(filters.gte("number", -number) for number in range(5_000)))
    (served,) = shelf.served(compile_filter(tree))
    assert served == {number for number, row in enumerate(shelf.rows) if row["lang"] == "en"}


@pytest.mark.parametrize("depth", [5, 15, 16, 17, 60, 61])
@pytest.mark.parametrize("outer", [filters.and_, filters.or_])
def test_deep_filters_work(shelf, depth, outer):
    tree, joins = filters.eq("lang", "en"), [outer, filters.or_ if outer is filters.and_ else filters.and_]
    for level in range(depth):
        tree = joins[level % 2](
            tree, filters.not_(filters.prefix("name", f"name 0{level % 10}")), filters.gt("number", 9)
        )
        tree = filters.not_(filters.not_(tree))
    assert (compile_filter(tree).check is None) == (depth <= 16)
    shelf.check(tree, filters.not_(tree))


def test_joins_of_one_part_have_no_depth():
    tree = filters.gt("a", 1)
    for _ in range(60):
        tree = filters.or_(filters.and_(filters.not_(tree)))
    assert compile_filter(tree) == compile_filter(filters.gt("a", 1))


def test_native_queries_pass_through_untouched(scratch):
    scratch.put([{"lang": "en"}, {"lang": "de"}], with_metadata=True)
    query = {"term": {"metadata.lang": "de"}}
    plan = compile_filter(query)
    assert plan == Plan({"term": {"metadata.lang": "de"}}) and plan.query is query
    assert scratch.served(plan) == [{1}]


def test_no_filter_is_everything():
    assert compile_filter(None) == Plan()
    assert Plan().accepts({})


@pytest.mark.parametrize("query", [{}, {"term": {"a": 1}, "boost": 2}])
def test_a_query_of_other_than_one_key_is_refused(query):
    with pytest.raises(ValueError, match="one key"):
        compile_filter(query)


@pytest.mark.parametrize("filter", ["lang == 'en'", "", 1, ["a"]])
def test_what_is_neither_is_refused_with_both_ways_out(filter):
    with pytest.raises(TypeError, match=r"from_dict.*Elasticsearch query as a dict"):
        compile_filter(filter)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"term": {"lang": "en"}}, {"lang"}),
        ({"terms": {"lang": ["en"], "boost": 2, "_name": "x"}}, {"lang"}),
        ({"term": {"boost": 1}}, {"boost"}),
        ({"match": {"query": {"query": "fox"}}}, {"query"}),
        ({"exists": {"field": "a"}}, {"a"}),
        ({"exists": {"field": "a*"}}, set()),
        ({"ids": {"values": ["1"]}}, set()),
        ({"match_all": {}}, set()),
        ({"unheard_of": {"field": "a", "query": {"term": {"b": 1}}}}, set()),
        ({"bool": {"must": {"term": {"a": 1}}, "should": [{"range": {"b": {}}}, {"prefix": {"c": "x"}}]}}, set("abc")),
        ({"bool": {"filter": [{"bool": {"must_not": {"wildcard": {"d": "*"}}}}], "minimum_should_match": 1}}, {"d"}),
        ({"constant_score": {"filter": {"fuzzy": {"a": "x"}}}}, {"a"}),
        ({"dis_max": {"queries": [{"regexp": {"a": "x"}}, {"match_phrase": {"b": "x"}}]}}, set("ab")),
        ({"nested": {"path": "a", "query": {"term": {"a.b": 1}}}}, {"a", "a.b"}),
        ({"knn": {"field": "v", "query_vector": [1], "filter": [{"term": {"a": 1}}]}}, {"v", "a"}),
        ({"sparse_vector": {"field": "s", "query_vector": {"1": 1.0}}}, {"s"}),
        ({"multi_match": {"query": "x", "fields": ["title^3", "text", "meta*"]}}, {"title", "text"}),
        (
            {"query_string": {"query": 'a:b OR (c.d:[1 TO 10:30] -_exists_:e) "f:g" h\\:i /j:k/ l\\ m:n o*:p q'}},
            {"a", "c.d", "e"},
        ),
        (
            {
                "span_near": {
                    "clauses": [{"span_term": {"a": "x"}}, {"span_or": {"clauses": [{"span_term": {"b": "y"}}]}}]
                }
            },
            {"a", "b"},
        ),
        ({"geo_distance": {"distance": "2km", "place": {"lat": 1, "lon": 1}, "distance_type": "arc"}}, {"place"}),
        ({"geo_shape": {"place": {}, "ignore_unmapped": True}}, {"place"}),
        ({"term": None, "bool": [1], "exists": {}, "terms": {}}, set()),
    ],
)
def test_fields_that_a_native_query_names(query, names):
    assert field_names(query) == names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lang", "'metadata.lang'"),
        ("metdata.lang", "'metadata.lang'"),
        ("parentid", "'parent_id'"),
        ("#", "there are"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"got '{name}'.*nothing would have been found.*{hint}"):
        check_fields({"bool": {"must_not": {"term": {name: "x"}}}}, {"parent_id", "title", "metadata"}, ["metadata."])


@pytest.mark.parametrize("name", ["title", "metadata", "metadata.any.thing", "_id", "_index"])
def test_known_fields_are_not_refused(name):
    check_fields({"term": {name: "x"}}, ["title", "metadata"], ["metadata."])


def _strings(tree):
    if isinstance(tree, filters.Comparison):
        values = tree.value if isinstance(tree.value, tuple) else (tree.value,)
        return [value for value in values if isinstance(value, str)]
    return [text for part in ([tree.part] if isinstance(tree, filters.Not) else tree.parts) for text in _strings(part)]


def _longest(tree):
    return max(map(len, _strings(tree)), default=0)


def _has_surrogate(tree):
    return any("\ud800" <= character <= "\udfff" for text in _strings(tree) for character in text)
