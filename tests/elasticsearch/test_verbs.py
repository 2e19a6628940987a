"""The verbs on Elasticsearch, typed metadata and native filters."""

import pytest

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from tests.core.indexing.races_suite import SharedRacesSuite
from tests.core.indexing.verbs_suite import Bm25Suite, StoredVerbsSuite, digests
from tests.elasticsearch.conftest import Create
from tests.tiny import random_documents, save_checkpoint

pytestmark = pytest.mark.elasticsearch9


class TestVerbs(StoredVerbsSuite):
    pass


class TestRaces(SharedRacesSuite):
    pass


class TestBm25(Bm25Suite):
    @pytest.fixture(scope="class", params=[1, 3], ids=["1 shard", "3 shards"])
    @classmethod
    def options(cls, request):
        return {"bm25": "standard", "settings": {"number_of_shards": request.param}}

    def test_a_query_of_more_words_than_a_node_allows_clauses_is_told(self, lexical, encoder):
        query = encoder.encode_queries(["fox"])
        text = " ".join(f"w{number}" for number in range(40_000))  # a node of 2 GB allows 32,768
        with pytest.raises(ElasticsearchIndexError, match="maxClauseCount is set to"):
            lexical.candidates(query, 3, text=text)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> M3Encoder:
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("wide"), hidden_size=64))


@pytest.mark.parametrize(("dense_index", "codec"), [("flat", "float16"), ("int4_hnsw", "binary"), ("bbq_hnsw", "int8")])
def test_vectors_survive_new_metadata_to_the_bit_in_every_codec_and_dense_index(make: Create, wide, dense_index, codec):
    index = make(encoder=wide, dense_index=dense_index, codec=codec)
    documents = random_documents(5)
    index.upsert(documents)
    before = digests(index)
    for turn in range(3):
        assert index.update_metadata({document.id: {"turn": turn} for document in documents}).written == 5
    assert digests(index) == before


def test_a_document_whose_passages_cannot_be_named_fails_as_a_whole(make: Create):
    index = make(passages=Passages(size=40, overlap=8))
    report = index.upsert([Document(id="x" * 511, text="fox"), Document(id="p", text="dog", parent_id="q")])
    assert {failure.id[:1] for failure in report.failed} == {"x", "p"} and report.written == 0
    assert "id must be at most 512 bytes" in next(f.reason for f in report.failed if f.id[0] == "x")
    assert index.count() == 0


# Typed metadata and native filters


@pytest.fixture(scope="module")
def typed(make: Create) -> ElasticsearchHybridIndex:
    fields = {
        "published": {"type": "date"},
        "pages": {"type": "integer"},
        "place": {"properties": {"city": {"type": "keyword"}}},
    }
    return make(metadata_fields=fields)


def test_typed_metadata_answer_native_queries_and_the_rest_is_kept(typed):
    documents = [
        Document(
            id=str(year), text="fox", metadata={"published": f"{year}-05-01", "place": {"city": "Bonn"}, "x": {"": 1}}
        )
        for year in (1999, 2010, 2020)
    ]
    assert typed.upsert(documents).failed == []
    assert {d.id for d in typed.scan({"range": {"metadata.published": {"gte": "2010-01-01"}}})} == {"2010", "2020"}
    assert typed.count({"term": {"metadata.place.city": "Bonn"}}) == 3
    assert typed.get(["1999"]) == [documents[0]]
    assert typed.count(filters.eq("published", "2020-05-01")) == 1
    assert typed.delete(filter={"range": {"metadata.published": {"lt": "2020"}}}) == 2


def test_a_value_that_does_not_fit_its_type_fails_its_document_only(typed):
    report = typed.upsert(
        [
            Document(id="good", text="fox", metadata={"pages": 3}),
            Document(id="bad", text="fox", metadata={"pages": "many"}),
        ]
    )
    assert (report.written, [failure.id for failure in report.failed]) == (1, ["bad"])
    assert "metadata.pages" in report.failed[0].reason and "\n" not in report.failed[0].reason
    assert typed.update_metadata({"good": {"pages": "many"}}).failed[0].id == "good"
    assert typed.get(["good", "bad"])[0].metadata == {"pages": 3}


def test_native_filters_are_queries_of_elasticsearch(index):
    english, early = filters.eq("lang", "en"), filters.lt("number", 20)
    native = {
        "bool": {"filter": [{"term": {"metadata.lang": "en"}}, {"ids": {"values": [f"doc-{n}" for n in range(20)]}}]}
    }
    assert {d.id for d in index.scan(native)} == {d.id for d in index.scan(filters.and_(english, early))}
    assert index.count({"prefix": {"id": "doc-1"}}) == 11
    hits = HybridRetriever(index).search("fox", k=50, filter={"term": {"metadata.lang": "en"}})
    assert {hit.id for hit in hits} == {d.id for d in index.scan(english)}


@pytest.mark.parametrize(
    "name, near", [("metadata_lang", "metadata"), ("parentid", "parent_id"), ("metdata.lang", "metadata.lang")]
)
def test_a_misspelt_field_of_a_native_filter_is_refused_with_near_names(index, encoder, name, near):
    """Elasticsearch would answer with nothing at all."""
    wanted = {"bool": {"must_not": [{"term": {name: "en"}}]}}
    verbs = [
        lambda: index.count(wanted),
        lambda: list(index.scan(wanted)),
        lambda: index.delete(filter=wanted),
        lambda: index.candidates(encoder.encode_queries(["fox"]), 3, wanted),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match=f"must name fields of the index, got '{name}'.*did you mean .*'{near}'"):
            verb()
    assert index.count() == 100
