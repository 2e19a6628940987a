"""Stored embeddings by id, of any engine, and explanations: what the codec kept is what is explained."""

from __future__ import annotations

import asyncio

import pytest

from m3plugins import HybridRetriever, HybridWeights
from m3plugins.compression import CODECS
from m3plugins.encoding import HEADS
from m3plugins.retrieval import explain
from tests.tiny import SENTENCES, random_documents

QUERIES = [SENTENCES[0], "fox 狐 лиса", ""]


class EmbeddingsSuite:
    """Subclasses have the fixtures of an engine: `make`, and those that are made of it."""

    def test_embeddings_are_those_of_a_scan_in_the_order_of_the_ids(self, index):
        scanned = {document.id: output for document, output in index.scan(with_embeddings=True)}
        ids = [f"doc-{number}" for number in reversed(range(100))]
        found = index.embeddings([*ids, "nobody", "doc-3"])
        assert list(found) == ids
        for i, output in found.items():
            assert len(output) == 1 and output.heads == HEADS
            assert output.digest() == scanned[i].digest()

    def test_of_no_documents_there_are_none(self, index, scratch):
        assert index.embeddings([]) == index.embeddings(["nobody"]) == scratch.embeddings(["doc-1"]) == {}

    @pytest.mark.parametrize(
        "heads", [("dense",), ("sparse", "multi_vector"), ("multi_vector", "sparse"), "sparse", "multi_vector", HEADS]
    )
    def test_embeddings_have_the_heads_that_were_asked_for(self, index, heads):
        ids = ["doc-1", "doc-2", "doc-3"]
        whole = index.embeddings(ids)
        found = index.embeddings(ids, heads)
        assert list(found) == ids
        for i, output in found.items():
            assert output.digest() == whole[i].select(heads).digest()

    def test_wrong_calls_are_refused(self, index):
        with pytest.raises(ValueError, match="heads must be one or more of dense, sparse, multi_vector"):
            index.embeddings(["doc-1"], ("colbert",))
        with pytest.raises(TypeError, match="ids must be a list of strings"):
            index.embeddings("doc-1")

    def test_the_async_twin_gives_the_same(self, index):
        (output,) = asyncio.run(index.aembeddings(["doc-2"], heads=("dense",))).values()
        assert output.digest() == index.embeddings(["doc-2"], heads=("dense",))["doc-2"].digest()

    def test_a_document_that_was_replaced_or_deleted_since_is_not_explained(self, empty):
        empty.upsert(random_documents(3))
        for change in (lambda i: empty.upsert(random_documents(3, seed=1)), lambda i: empty.delete([i])):
            hit = HybridRetriever(empty).search("fox", k=1)[0]
            change(hit.id)
            with pytest.raises(ValueError, match="was deleted or changed since it was found; search again"):
                explain("fox", hit, index=empty)


class ExplanationSuite(EmbeddingsSuite):
    """Of engines that keep token vectors by a codec, and have BM25."""

    @pytest.mark.parametrize("codec", CODECS)
    def test_explanations_add_up_to_the_scores_of_every_codec(self, make, codec):
        index = make(codec=codec, bm25="standard")
        index.upsert(random_documents(12))
        weights = HybridWeights(dense=0.5, sparse=0.4, bm25=0.02)
        for query in QUERIES:
            for hit in HybridRetriever(index, weights=weights).search(query, k=12):
                explanation = explain(query, hit, index=index, weights=weights)
                assert set(explanation.contributions) == {*HEADS, "bm25"}
                assert explanation.weighted == pytest.approx(hit.score, abs=1e-6)
                assert sum(m.contribution for m in explanation.sparse) == pytest.approx(hit.scores.sparse, abs=1e-5)
                late = sum(m.contribution for m in explanation.multi_vector)
                assert late == pytest.approx(hit.scores.multi_vector, abs=1e-5)
