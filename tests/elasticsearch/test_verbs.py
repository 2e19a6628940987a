"""Metadata alone, passages, BM25, typed metadata, native filters, and the async twins."""

import asyncio
from dataclasses import replace

import pytest

from m3plugins import Document, HybridRetriever, HybridWeights, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from tests.elasticsearch.conftest import Create, vectors
from tests.milvus.conftest import random_documents
from tests.tiny import SENTENCES, save_checkpoint

# Metadata alone


def test_new_metadata_are_stored_without_encoding_and_keep_the_vectors_to_the_bit(empty, passes):
    documents = random_documents(20)
    empty.upsert(documents)
    before = vectors(empty)
    passes.clear()
    acknowledged = []
    new = {f"doc-{n}": {"year": 2000 + n, "tags": ["a", "b"]} for n in range(5)}
    report = empty.update_metadata({**new, "doc-6": documents[6].metadata, "nobody": {}}, on_ack=acknowledged.extend)
    assert (report.written, report.unchanged) == (5, 1)
    assert report.failed == [("nobody", "there is no document of this id; index it first")]
    assert acknowledged == [*new, "doc-6"]
    assert passes == []
    assert empty.get(list(new)) == [replace(documents[n], metadata=new[f"doc-{n}"]) for n in range(5)]
    assert vectors(empty) == before
    assert {d.id for d in empty.scan(filters.gte("year", 2003))} == {"doc-3", "doc-4"}
    assert empty.count(filters.exists("lang")) == 15


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> M3Encoder:
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("wide"), hidden_size=64))


@pytest.mark.parametrize(("dense_index", "codec"), [("flat", "float16"), ("int4_hnsw", "binary"), ("bbq_hnsw", "int8")])
def test_vectors_survive_new_metadata_to_the_bit_in_every_codec_and_dense_index(make: Create, wide, dense_index, codec):
    index = make(encoder=wide, dense_index=dense_index, codec=codec)
    documents = random_documents(5)
    index.upsert(documents)
    before = vectors(index)
    for turn in range(3):
        assert index.update_metadata({document.id: {"turn": turn} for document in documents}).written == 5
    assert vectors(index) == before


def test_upsert_with_the_same_text_encodes_nothing(empty, passes):
    documents = [Document(id="a", text="a fox " * 30_000), Document(id="b", text="a dog")]
    assert empty.upsert(documents).truncated == 1
    passes.clear()
    changed = [replace(documents[0], metadata={"n": 1}), replace(documents[1], parent_id="p")]
    assert empty.upsert(changed).written == 2
    assert passes == []
    assert empty.get(["a", "b"]) == changed
    assert empty.upsert(changed).unchanged == 2
    assert empty.embeddings(["a"])["a"].truncated.tolist() == [True]


def test_what_is_unchanged_is_not_encoded(empty, passes):
    documents = random_documents(20)
    empty.upsert(documents)
    passes.clear()
    changed = replace(documents[3], text="a new text", title="")
    report = empty.upsert([*documents[:3], changed, *documents[4:]])
    assert (report.written, report.unchanged, passes) == (1, 19, ["a new text"])


def test_metadata_that_cannot_be_stored_change_nothing(empty):
    empty.upsert([Document(id="a", text="fox", metadata={"n": 1})])
    report = empty.update_metadata({"a": {"n": float("nan")}})
    assert report.failed[0].id == "a" and "finite" in report.failed[0].reason
    assert empty.get(["a"])[0].metadata == {"n": 1}


def test_metadata_of_a_document_with_the_callers_embeddings_keep_them(empty, embedding):
    empty.upsert([Document(id="a", text="its text does not matter")], embeddings=embedding)
    before = vectors(empty)
    empty.update_metadata({"a": {"n": 1}})
    assert vectors(empty) == before
    again = Document(id="a", text="its text does not matter", metadata={"n": 1})
    assert empty.upsert([again], embedding).unchanged == 1


def test_metadata_of_a_text_that_was_replaced_or_deleted_meanwhile_are_refused(empty, monkeypatch):
    """Someone else writes between the comparison and the write."""
    empty.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
    annotate = type(empty._store).annotate

    def late(store, documents, digests):
        monkeypatch.undo()
        empty.upsert([Document(id="a", text="a river")])
        empty.delete(["b"])
        return annotate(store, documents, digests)

    monkeypatch.setattr(type(empty._store), "annotate", late)
    report = empty.upsert([Document(id=i, text=t, metadata={"n": 1}) for i, t in (("a", "a fox"), ("b", "a dog"))])
    assert report.written == 0 and {failure.id for failure in report.failed} == {"a", "b"}
    assert all("replaced or deleted meanwhile; index it again" in failure.reason for failure in report.failed)
    assert list(empty.scan()) == [Document(id="a", text="a river")]


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


# BM25


@pytest.fixture(scope="module")
def lexical(make: Create) -> ElasticsearchHybridIndex:
    index = make(bm25="standard")
    index.upsert(
        [
            Document(id="a", text="the quick brown fox"),
            Document(id="b", text="a lazy dog", title="Fox"),
            Document(id="c", text="a river"),
        ]
    )
    return index


def test_bm25_joins_when_it_has_a_weight(lexical, encoder):
    hits = {hit.id: hit for hit in HybridRetriever(lexical, weights=HybridWeights(bm25=0.5)).search("fox", k=3)}
    assert hits["a"].scores.bm25 > 0 and hits["b"].scores.bm25 > 0 and hits["c"].scores.bm25 == 0
    query = encoder.encode_queries(["fox"])
    found = lexical.candidates(query, 3, text="fox")["bm25"]
    assert {c.id: c.score for c in found} == pytest.approx({i: hits[i].scores.bm25 for i in ("a", "b")})
    assert found == sorted(found, key=lambda c: (-c.score, c.id))
    without = {hit.id: hit for hit in HybridRetriever(lexical).search("fox", k=3)}
    for i, hit in hits.items():
        assert hit.score == pytest.approx(without[i].score + 0.5 * hit.scores.bm25)
        assert without[i].scores.bm25 is None
    assert lexical.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"] == []
    lexical.update_metadata({"a": {"n": 1}})
    assert [c.id for c in lexical.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"]] == ["a"]
    for nothing in ("nowhere", "", "?!", "\x00", "AND OR (" * 2000):
        assert lexical.candidates(query, 3, text=nothing)["bm25"] == []


def test_reciprocal_ranks_count_bm25(lexical):
    with_it = HybridRetriever(lexical, fusion="rrf", weights=HybridWeights(bm25=1)).search("fox", k=3)
    without = HybridRetriever(lexical, fusion="rrf").search("fox", k=3)
    assert max(hit.score for hit in without) <= 3 / 61 < max(hit.score for hit in with_it) <= 4 / 61


def test_a_query_of_more_words_than_a_node_allows_clauses_is_told(lexical, encoder):
    query = encoder.encode_queries(["fox"])
    text = " ".join(f"w{number}" for number in range(40_000))  # a node of 2 GB allows 32,768
    with pytest.raises(ElasticsearchIndexError, match="maxClauseCount is set to"):
        lexical.candidates(query, 3, text=text)


# Passages


def test_passages_are_of_the_index(make: Create, encoder, es_url):
    """Their settings are stored with it, replaced documents leave no passage, and hits can be one a document."""
    cut = Passages(size=40, overlap=8)
    long = " ".join(SENTENCES[:4])
    index = make(passages=cut)
    documents = [Document(id=i, text=long, metadata={"n": 1}) for i in ("a", 'b"] or key != "')]
    assert index.upsert(documents).written == 2
    with ElasticsearchHybridIndex.open(index.name, encoder=encoder, uri=es_url) as index:
        assert index.passages == cut
        assert index.upsert(documents).unchanged == 2
        pieces = cut.split(long, encoder)
        assert [d.text for d in index.get([f"a#{n}" for n in range(len(pieces))])] == pieces
        hits = HybridRetriever(index, candidates=2, multi_vector_depth=2).search("fox", k=5, per_parent=1)
        assert {hit.document.parent_id for hit in hits} == {document.id for document in documents}
        acknowledged = []
        assert index.upsert([Document(id="a", text="short")], on_ack=acknowledged.extend).written == 1
        assert acknowledged == ["a"]
        assert index.count() == 1 + len(pieces)
        assert index.update_metadata({"a": {"n": 2}}).written == 1
        assert index.count(filters.eq("n", 2)) == 1
        assert index.delete([documents[1].id]) == len(pieces)
        assert [d.text for d in index.scan()] == ["short"]


def test_a_document_whose_passages_cannot_be_named_fails_as_a_whole(make: Create):
    index = make(passages=Passages(size=40, overlap=8))
    report = index.upsert([Document(id="x" * 511, text="fox"), Document(id="p", text="dog", parent_id="q")])
    assert {failure.id[:1] for failure in report.failed} == {"x", "p"} and report.written == 0
    assert "id must be at most 512 bytes" in next(f.reason for f in report.failed if f.id[0] == "x")
    assert index.count() == 0


def test_passages_longer_than_the_model_reads_are_refused_at_once(encoder, es_url, es_name):
    with pytest.raises(ValueError, match="size must be at most"):
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=es_url, passages=Passages(size=100_000))


# The async twins


def test_async_twins_do_the_same_and_the_loop_goes_on(empty, encoder):
    documents = random_documents(150)
    query = encoder.encode_queries(["fox"])

    async def work():
        ticks, done = 0, False

        async def tick():
            nonlocal ticks
            while not done:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        assert (await empty.aupsert(documents)).written == 150
        assert ticks > 1
        assert (await empty.aupdate_metadata({"doc-0": {"n": 1}})).written == 1
        assert await empty.acount(filters.exists("number")) == 149
        assert [d.id async for d in empty.ascan(filters.eq("n", 1))] == ["doc-0"]
        assert len([d async for d in empty.ascan()]) == 150
        assert await empty.aget(["doc-7"]) == [documents[7]]
        assert await empty.acandidates(query, 5) == empty.candidates(query, 5)
        assert await empty.ascore(query, ["doc-7"]) == empty.score(query, ["doc-7"])
        assert (await empty.aembeddings(["doc-7"]))["doc-7"].digest() == empty.embeddings(["doc-7"])["doc-7"].digest()
        assert await empty.adelete(["doc-0"]) == 1
        hits = await HybridRetriever(empty).asearch_many(["fox", "dog"], k=3)
        done = True
        await ticking
        return hits

    assert asyncio.run(work()) == HybridRetriever(empty).search_many(["fox", "dog"], k=3)
