"""What the verbs of any engine do: metadata alone, parents, passages, BM25, and the async twins."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, HybridWeights
from m3plugins.encoding import Passages
from m3plugins.fusion import ranks
from m3plugins.retrieval import filters
from tests.tiny import SENTENCES, random_documents

LONG = " ".join(SENTENCES[:4])
CUT = Passages(size=40, overlap=8)


def digests(index: HybridIndex) -> dict[str, str]:
    """Of the embeddings of every document, to the bit."""
    return {document.id: output.digest() for document, output in index.scan(with_embeddings=True)}


class VerbsSuite:
    """Subclasses have the fixtures of an engine: `make`, and those that are made of it."""

    def assert_tidy(self, index: HybridIndex) -> None:
        """For engines that keep a document in several places: nothing is left of what was replaced."""

    def test_new_metadata_are_stored_without_encoding_and_keep_the_vectors_to_the_bit(self, empty, passes):
        documents = random_documents(20)
        empty.upsert(documents)
        before = digests(empty)
        passes.clear()
        acknowledged = []
        new = {f"doc-{n}": {"year": 2000 + n, "tags": ["a", "b"]} for n in range(5)}
        changes = {**new, "doc-6": documents[6].metadata, "nobody": {}}
        report = empty.update_metadata(changes, on_ack=acknowledged.extend)
        assert (report.written, report.unchanged) == (5, 1)
        assert report.failed == [("nobody", "there is no document of this id; index it first")]
        assert acknowledged == [*new, "doc-6"]
        assert passes == []
        assert empty.get(list(new)) == [replace(documents[n], metadata=new[f"doc-{n}"]) for n in range(5)]
        assert digests(empty) == before
        assert {d.id for d in empty.scan(filters.gte("year", 2003))} == {"doc-3", "doc-4"}
        assert empty.count(filters.exists("lang")) == 15  # the old ones are gone
        self.assert_tidy(empty)

    def test_upsert_with_the_same_text_encodes_nothing(self, empty, passes):
        documents = [Document(id="a", text="a fox " * 30_000), Document(id="b", text="a dog")]
        assert empty.upsert(documents).truncated == 1
        passes.clear()
        changed = [replace(documents[0], metadata={"n": 1}), replace(documents[1], parent_id="p")]
        assert empty.upsert(changed).written == 2
        assert passes == []
        assert empty.get(["a", "b"]) == changed
        assert empty.upsert(changed).unchanged == 2
        assert empty.embeddings(["a"])["a"].truncated.tolist() == [True]
        self.assert_tidy(empty)

    def test_what_is_unchanged_is_not_encoded(self, empty, passes):
        documents = random_documents(20)
        empty.upsert(documents)
        passes.clear()
        changed = replace(documents[3], text="a new text", title="")
        report = empty.upsert([*documents[:3], changed, *documents[4:]])
        assert (report.written, report.unchanged, passes) == (1, 19, ["a new text"])

    def test_metadata_that_cannot_be_stored_change_nothing(self, empty):
        empty.upsert([Document(id="a", text="fox", metadata={"n": 1})])
        report = empty.update_metadata({"a": {"n": float("nan")}})
        assert report.failed[0].id == "a" and "finite" in report.failed[0].reason
        assert empty.get(["a"])[0].metadata == {"n": 1}

    def test_metadata_of_a_document_with_the_callers_embeddings_keep_them(self, empty, embedding):
        empty.upsert([Document(id="a", text="its text does not matter")], embeddings=embedding)
        before = digests(empty)
        empty.update_metadata({"a": {"n": 1}})
        assert digests(empty) == before
        again = Document(id="a", text="its text does not matter", metadata={"n": 1})
        assert empty.upsert([again], embedding).unchanged == 1

    def test_metadata_of_a_text_that_was_replaced_or_deleted_meanwhile_are_refused(self, empty, monkeypatch):
        """Someone else writes between the comparison and the write."""
        empty.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
        annotate = type(empty.writer).annotate

        def late(*arguments):
            monkeypatch.undo()
            empty.upsert([Document(id="a", text="a river")])
            empty.delete(["b"])
            return annotate(*arguments)

        monkeypatch.setattr(type(empty.writer), "annotate", late)
        report = empty.upsert([Document(id=i, text=t, metadata={"n": 1}) for i, t in (("a", "a fox"), ("b", "a dog"))])
        assert report.written == 0 and {failure.id for failure in report.failed} == {"a", "b"}
        assert all("replaced or deleted meanwhile; index it again" in failure.reason for failure in report.failed)
        assert list(empty.scan()) == [Document(id="a", text="a river")]

    @pytest.mark.parametrize("parent", ["p", 'p"] or key != "', "\x00", "狐🦊", "x" * 512, ""])
    def test_delete_by_parent(self, empty, parent):
        children = [Document(id=f"c{n}", text=f"text {n}", parent_id=parent) for n in range(5)]
        itself = Document(id=parent or "none", text="the parent itself")
        empty.upsert([*children, itself, Document(id="o", text="x", parent_id="q")])
        assert empty.delete(parent_id=parent) == 5
        assert {d.id for d in empty.scan()} == {itself.id, "o"}
        assert empty.delete(parent_id=parent) == 0

    def test_async_twins_do_the_same_and_the_loop_goes_on(self, empty, encoder):
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
            (output,) = (await empty.aembeddings(["doc-7"])).values()
            assert output.digest() == empty.embeddings(["doc-7"])["doc-7"].digest()
            assert await empty.adelete(["doc-0"]) == 1
            hits = await HybridRetriever(empty).asearch_many(["fox", "dog"], k=3)
            done = True
            await ticking
            return hits

        assert asyncio.run(work()) == HybridRetriever(empty).search_many(["fox", "dog"], k=3)


class StoredVerbsSuite(VerbsSuite):
    """Of engines whose indexes stay: there is a fixture `reopen`, too, which opens one by its name."""

    def test_passages_are_of_the_index(self, make, reopen, encoder):
        """Their settings are stored with it, replaced documents leave no passage, and hits can be one a document."""
        index = make(passages=CUT)
        documents = [Document(id=i, text=LONG, metadata={"n": 1}) for i in ("a", 'b"] or key != "')]
        assert index.upsert(documents).written == 2
        index.close()
        with reopen(index.name) as index:
            assert index.passages == CUT
            assert index.upsert(documents).unchanged == 2
            pieces = CUT.split(LONG, encoder)
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
            self.assert_tidy(index)
            assert [d.text for d in index.scan()] == ["short"]

    def test_passages_longer_than_the_model_reads_are_refused_at_once(self, make):
        name = make().name + "_cut"
        with pytest.raises(ValueError, match="size must be at most"):
            make(name, passages=Passages(size=100_000))
        assert make(name).count() == 0


class Bm25Suite:
    """Of engines that have BM25."""

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls):
        return {"bm25": "standard"}

    @pytest.fixture(scope="class")
    @classmethod
    def lexical(cls, make, options):
        index = make(**options)
        texts = {"a": ("the quick brown fox", ""), "b": ("a lazy dog", "Fox"), "c": ("a river", "")}
        index.upsert(Document(id=i, text=text, title=title) for i, (text, title) in texts.items())
        return index

    def test_it_joins_when_it_has_a_weight(self, lexical, encoder):
        hits = {hit.id: hit for hit in HybridRetriever(lexical, weights=HybridWeights(bm25=0.5)).search("fox", k=3)}
        assert hits["a"].scores.bm25 > 0 and hits["b"].scores.bm25 > 0 and hits["c"].scores.bm25 == 0
        found = lexical.candidates(encoder.encode_queries(["fox"]), 3, text="fox")["bm25"]
        assert {c.id: c.score for c in found} == pytest.approx({i: hits[i].scores.bm25 for i in ("a", "b")})
        assert found == sorted(found, key=lambda c: (-c.score, c.id))
        without = {hit.id: hit for hit in HybridRetriever(lexical).search("fox", k=3)}
        for i, hit in hits.items():
            assert hit.score == pytest.approx(without[i].score + 0.5 * hit.scores.bm25)
            assert without[i].scores.bm25 is None

    def test_its_candidates_are_those_of_the_filter(self, lexical, encoder):
        query = encoder.encode_queries(["fox"])
        assert lexical.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"] == []
        lexical.update_metadata({"a": {"n": 1}})
        assert [c.id for c in lexical.candidates(query, 3, filters.eq("n", 1), text="fox")["bm25"]] == ["a"]

    @pytest.mark.parametrize("text", ["nowhere", "", "?!", "\x00", "AND OR (" * 2000], ids=lambda text: repr(text[:9]))
    def test_a_text_whose_words_are_nowhere_has_no_candidates(self, lexical, encoder, text):
        assert lexical.candidates(encoder.encode_queries(["fox"]), 3, text=text)["bm25"] == []

    def test_reciprocal_ranks_count_it(self, lexical, encoder):
        query = encoder.encode_queries(["fox"])
        found = {hit.id: hit.score for hit in lexical.candidates(query, 3, text="fox")["bm25"]}
        with_it = HybridRetriever(lexical, fusion="rrf", weights=HybridWeights(bm25=2)).search("fox", k=3)
        without = {hit.id: hit for hit in HybridRetriever(lexical, fusion="rrf").search("fox", k=3)}
        rank_of = dict(zip(found, ranks(list(found.values())), strict=True))
        for hit in with_it:
            more = 2 / (60 + rank_of[hit.id]) if hit.id in rank_of else 0  # "c" has no word of the query
            assert hit.score == pytest.approx(without[hit.id].score + more)

    def test_scores_of_candidates_and_of_documents_are_one(self, make, options, encoder):
        index, documents = make(**options), random_documents(30)
        index.upsert(documents)
        query = encoder.encode_queries(["brown fox"])
        found = index.candidates(query, 30, text="brown fox")["bm25"]
        assert found
        scores = index.score(query.select(["dense"]), [document.id for document in documents], text="brown fox")
        scored = {i: score.bm25 for i, score in scores.items() if score.bm25}
        assert scored == pytest.approx({hit.id: hit.score for hit in found}, rel=1e-5)
        weights = HybridWeights(dense=1, sparse=0, multi_vector=0, bm25=2)
        for hit in HybridRetriever(index, weights=weights).search("brown fox"):
            assert hit.score == pytest.approx(hit.scores.dense + 2 * hit.scores.bm25)

    def test_an_index_without_it_says_so(self, scratch, encoder):
        with pytest.raises(ValueError, match="has no BM25; leave its weight at 0"):
            HybridRetriever(scratch, weights=HybridWeights(bm25=1)).search("fox")
        with pytest.raises(ValueError, match="no BM25"):
            scratch.candidates(encoder.encode_queries(["fox"]), 3, text="fox")
