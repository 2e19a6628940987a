"""Metadata alone, parents, tenants, BM25, and the async twins."""

import asyncio
from dataclasses import replace

import pytest

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex
from m3plugins_milvus.filters import compile_filter
from tests.milvus.conftest import random_documents
from tests.tiny import SENTENCES


@pytest.fixture
def passes(encoder, monkeypatch):
    """The texts that are encoded as documents."""
    texts = []
    encode = type(encoder).iter_documents

    def counted(self, documents, **options):
        documents = list(documents)
        texts.extend(documents)
        return encode(self, documents, **options)

    monkeypatch.setattr(type(encoder), "iter_documents", counted)
    return texts


def embeddings(index):
    return {
        document.id: (output.dense.tolist(), output.sparse[0].to_dict(), output.multi_vector[0].tolist())
        for document, output in index.scan(with_embeddings=True)
    }


def test_new_metadata_are_stored_without_encoding(empty, passes):
    documents = random_documents(20)
    empty.upsert(documents)
    before = embeddings(empty)
    passes.clear()
    acknowledged = []
    new = {f"doc-{n}": {"year": 2000 + n, "tags": ["a", "b"]} for n in range(5)}
    report = empty.update_metadata({**new, "doc-6": documents[6].metadata, "nobody": {}}, on_ack=acknowledged.extend)
    assert (report.written, report.unchanged) == (5, 1)
    assert report.failed == [("nobody", "there is no document of this id; index it first")]
    assert acknowledged == [*new, "doc-6"]
    assert passes == []
    assert empty.get(list(new)) == [replace(documents[n], metadata=new[f"doc-{n}"]) for n in range(5)]
    assert embeddings(empty) == before
    assert {d.id for d in empty.scan(filters.gte("year", 2003))} == {"doc-3", "doc-4"}
    assert empty.count(filters.exists("lang")) == 15  # the old dynamic fields are gone
    assert empty.sweep() == 0


def test_upsert_with_the_same_text_encodes_nothing(empty, passes):
    documents = [Document(id="a", text="a fox " * 30_000), Document(id="b", text="a dog")]
    empty.upsert(documents)
    passes.clear()
    changed = [replace(documents[0], metadata={"n": 1}), replace(documents[1], parent_id="p")]
    assert empty.upsert(changed).written == 2
    assert passes == []
    assert empty.get(["a", "b"]) == changed
    assert empty.upsert(changed).unchanged == 2
    assert empty.sweep() == 0


def test_metadata_that_cannot_be_stored_change_nothing(empty):
    empty.upsert([Document(id="a", text="fox", metadata={"n": 1})])
    report = empty.update_metadata({"a": {"n": float("nan")}})
    assert report.failed[0].id == "a" and "finite" in report.failed[0].reason
    assert empty.get(["a"])[0].metadata == {"n": 1}


def test_metadata_of_a_document_with_the_callers_embeddings_keep_them(empty, embedding):
    empty.upsert([Document(id="a", text="its text does not matter")], embeddings=embedding)
    before = embeddings(empty)
    empty.update_metadata({"a": {"n": 1}})
    assert embeddings(empty) == before
    again = Document(id="a", text="its text does not matter", metadata={"n": 1})
    assert empty.upsert([again], embedding).unchanged == 1


@pytest.mark.parametrize("kind", ["own", "memory"])
def test_metadata_of_a_text_that_was_replaced_meanwhile_are_refused(create, encoder, kind):
    """Another thread replaces the document between the comparison and the write."""
    index = create() if kind == "own" else InMemoryHybridIndex(encoder=encoder)
    index.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
    annotate = index._store.annotate

    def late(documents, digests):
        index.upsert([Document(id="a", text="a river")])
        index.delete(["b"])
        return annotate(documents, digests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(index._store), "annotate", lambda self, *changes: late(*changes))
        report = index.upsert([Document(id=i, text=t, metadata={"n": 1}) for i, t in (("a", "a fox"), ("b", "a dog"))])
    assert report.written == 0 and {failure.id for failure in report.failed} == {"a", "b"}
    assert list(index.scan()) == [Document(id="a", text="a river")]
    index.close()


@pytest.mark.parametrize("parent", ["p", 'p"] or key != "', "\x00", "狐🦊", "x" * 70])
def test_delete_by_parent(empty, parent):
    children = [Document(id=f"c{n}", text=f"text {n}", parent_id=parent) for n in range(5)]
    empty.upsert([*children, Document(id=parent, text="the parent itself"), Document(id="o", text="x", parent_id="q")])
    assert empty.delete(parent_id=parent) == 5
    assert {d.id for d in empty.scan()} == {parent, "o"}
    assert empty.delete(parent_id=parent) == 0


def test_bm25_joins_when_it_has_a_weight(create, encoder):
    documents = [
        Document(id="a", text="the quick brown fox"),
        Document(id="b", text="a lazy dog", title="Fox"),
        Document(id="c", text="a river"),
    ]
    index = create("lexical", bm25="standard")
    index.upsert(documents)
    retriever = HybridRetriever(index, weights=HybridWeights(bm25=0.5))
    hits = {hit.id: hit for hit in retriever.search("fox", k=3)}
    assert hits["a"].scores.bm25 > 0 and hits["b"].scores.bm25 > 0 and hits["c"].scores.bm25 == 0
    query = encoder.encode_queries(["fox"])
    found = index.candidates(query, 3, text="fox")["bm25"]
    assert {c.id: c.score for c in found} == {i: hits[i].scores.bm25 for i in ("a", "b")}
    assert found == sorted(found, key=lambda c: (-c.score, c.id))
    without = {hit.id: hit for hit in HybridRetriever(index).search("fox", k=3)}
    for i, hit in hits.items():
        assert hit.score == pytest.approx(without[i].score + 0.5 * hit.scores.bm25)
        assert without[i].scores.bm25 is None
    assert index.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"] == []
    index.update_metadata({"a": {"n": 1}})
    assert [c.id for c in index.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"]] == ["a"]
    assert index.candidates(query, 3, text="nowhere")["bm25"] == []
    assert index.candidates(query, 3, text="")["bm25"] == []


def test_bm25_of_an_index_without_it_is_refused(index):
    with pytest.raises(ValueError, match="has no BM25; leave its weight at 0"):
        HybridRetriever(index, weights=HybridWeights(bm25=1)).search("fox")


def test_reciprocal_ranks_count_bm25(create):
    index = create("lexical", bm25="standard")
    index.upsert([Document(id=str(n), text="fox " * (n + 1)) for n in range(5)])
    with_it = HybridRetriever(index, fusion="rrf", weights=HybridWeights(bm25=1)).search("fox", k=5)
    without = HybridRetriever(index, fusion="rrf").search("fox", k=5)
    assert max(hit.score for hit in without) <= 3 / 61 < max(hit.score for hit in with_it) <= 4 / 61


def test_tenants_are_partitions_and_filters_read_their_own(create):
    index = create("tenants", tenant="customer")
    documents = [Document(id=f"{n}", text=f"fox {n}", metadata={"customer": f"c{n % 3}", "n": n}) for n in range(12)]
    assert index.upsert(documents).written == 12
    wanted = filters.and_(filters.eq("customer", "c1"), filters.gt("n", 3))
    assert {d.id for d in index.scan(wanted)} == {"4", "7", "10"}
    hits = HybridRetriever(index).search("fox", k=12, filter=filters.in_("customer", ["c0", "c2"]))
    assert {hit.metadata["customer"] for hit in hits} == {"c0", "c2"} and len(hits) == 8
    moved = replace(documents[1], metadata={"customer": "c2", "n": 1})
    assert index.upsert([moved]).written == 1
    assert (index.count(), index.count(filters.eq("customer", "c1")), index.count(filters.eq("customer", "c2"))) == (
        12,
        3,
        5,
    )
    index.update_metadata({"4": {"customer": "c0", "n": 4}})
    assert index.get(["4"])[0].metadata["customer"] == "c0"
    assert (index.count(), index.count(filters.eq("customer", "c1"))) == (12, 2)
    assert index.delete(filter=filters.eq("customer", "c0")) == 5


def test_a_document_without_its_tenant_is_refused(create):
    index = create("tenants", tenant="customer")
    report = index.upsert([Document(id="a", text="x"), Document(id="b", text="x", metadata={"customer": ["c"]})])
    assert [failure.id for failure in report.failed] == ["a", "b"]
    assert "by which this index is partitioned" in report.failed[0].reason


def test_only_a_filter_that_pins_the_tenant_names_partitions():
    pinned = filters.and_(filters.gt("n", 1), filters.or_(filters.eq("a", 1)), filters.eq("customer", "c"))
    assert "tenant in" in compile_filter(pinned, "customer").expression
    for free in (filters.ne("customer", "c"), filters.or_(filters.eq("customer", "c"), filters.eq("n", 1)), None):
        assert "tenant" not in compile_filter(free, "customer").expression
    assert "tenant" not in compile_filter(pinned).expression


def test_async_twins_do_the_same_and_the_loop_goes_on(empty, encoder):
    documents = random_documents(300)
    query = encoder.encode_queries(["fox"])

    async def work():
        ticks, done = 0, False

        async def tick():
            nonlocal ticks
            while not done:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        assert (await empty.aupsert(documents)).written == 300
        assert ticks > 1
        assert (await empty.aupdate_metadata({"doc-0": {"n": 1}})).written == 1
        assert await empty.acount(filters.exists("number")) == 299
        assert [d.id async for d in empty.ascan(filters.eq("n", 1))] == ["doc-0"]
        assert len([d async for d in empty.ascan()]) == 300
        assert await empty.aget(["doc-7"]) == [documents[7]]
        assert await empty.acandidates(query, 5) == empty.candidates(query, 5)
        assert await empty.ascore(query, ["doc-7"]) == empty.score(query, ["doc-7"])
        assert await empty.adelete(["doc-0"]) == 1
        hits = await HybridRetriever(empty).asearch_many(["fox", "dog"], k=3)
        done = True
        await ticking
        return hits

    assert asyncio.run(work()) == HybridRetriever(empty).search_many(["fox", "dog"], k=3)


def test_passages_are_of_the_index(create, encoder, tmp_path):
    """Their settings are stored with it, replaced documents leave no passage, and hits can be one a document."""
    cut = Passages(size=40, overlap=8)
    long = " ".join(SENTENCES[:4])
    index = create("cut", passages=cut)
    documents = [Document(id=i, text=long, metadata={"n": 1}) for i in ("a", 'b"] or key != "')]
    assert index.upsert(documents).written == 2
    index.close()
    with MilvusHybridIndex.open("cut", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert index.upsert(documents).unchanged == 2
        pieces = cut.split(long, encoder)
        assert [d.text for d in index.get([f"a#{n}" for n in range(len(pieces))])] == pieces
        hits = HybridRetriever(index, candidates=2, multi_vector_depth=2).search("fox", k=5, per_parent=1)
        assert {hit.document.parent_id for hit in hits} == {document.id for document in documents}
        assert index.upsert([Document(id="a", text="short")]).written == 1
        assert index.count() == 1 + len(pieces)
        assert index.update_metadata({"a": {"n": 2}}).written == 1
        assert index.count(filters.eq("n", 2)) == 1
        assert index.delete([documents[1].id]) == len(pieces)
        assert index.sweep() == 0
        assert [d.text for d in index.scan()] == ["short"]


def test_passages_longer_than_the_model_reads_are_refused_at_once(create):
    with pytest.raises(ValueError, match="size must be at most"):
        create("cut", passages=Passages(size=100_000))
    create("cut")
