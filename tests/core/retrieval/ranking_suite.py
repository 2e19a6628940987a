"""What any engine finds: the candidates and the scores of brute force over what it has stored."""

from __future__ import annotations

import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, HybridWeights, InMemoryHybridIndex
from m3plugins.retrieval import Hit, filters
from tests.tiny import SENTENCES, random_documents

QUERIES = [*SENTENCES, "", "zzz unseen", "fox 狐 лиса"]
EVERYTHING = {"candidates": 100, "multi_vector_depth": 100}


def in_memory(index: HybridIndex) -> InMemoryHybridIndex:
    """The same documents with the embeddings that the index holds (so the codec's error is in both)."""
    oracle = InMemoryHybridIndex(encoder=index.encoder, codec=None)
    stored = list(index.scan(with_embeddings=True))
    oracle.upsert([document for document, _ in stored], embeddings=[output for _, output in stored])
    return oracle


def assert_same_hits(got: list[Hit], expected: list[Hit]) -> None:
    assert [hit.score for hit in got] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    wanted = {hit.id: hit for hit in expected}
    for hit in got[:-1]:  # the last may be one of several equals
        assert hit.scores.dense == pytest.approx(wanted[hit.id].scores.dense, abs=1e-5)
        assert hit.scores.sparse == pytest.approx(wanted[hit.id].scores.sparse, abs=1e-5)
        assert hit.scores.multi_vector == pytest.approx(wanted[hit.id].scores.multi_vector, abs=1e-5)
        assert hit.document == wanted[hit.id].document


class CandidatesSuite:
    """Subclasses have the fixtures of an engine: `make`, and those that are made of it.

    Attributes:
        exhaustive: The heads of which the engine looks at every document.
    """

    exhaustive = ("dense", "sparse")

    def test_candidates_have_the_heads_of_the_query(self, index, encoder):
        assert set(index.candidates(encoder.encode_queries(["fox"], heads=["dense"]), 3)) == {"dense"}
        assert set(index.candidates(encoder.encode_queries(["fox"], heads=["sparse"]), 3)) == {"sparse"}

    def test_a_query_without_a_token_weight_has_no_sparse_candidates(self, index, encoder):
        assert index.candidates(encoder.encode_queries([""]), 3)["sparse"] == []

    def test_equal_scores_come_in_the_order_of_ids(self, empty, embedding, encoder):
        ids = [f"{number:02}" for number in range(40)]
        empty.upsert([Document(id=i, text="same") for i in reversed(ids)], embeddings=[embedding] * 40)
        query = encoder.encode_queries(["The quick brown fox"])
        found, first = empty.candidates(query, 40), empty.candidates(query, 7)
        assert [hit.id for hit in found["dense"]] == [hit.id for hit in found["sparse"]] == ids
        for head in self.exhaustive:
            assert [hit.id for hit in first[head]] == ids[:7]


class RankingSuite(CandidatesSuite):
    """Of engines that keep token vectors by a codec.

    Attributes:
        sparse_kept: The relative error with which token weights are kept.
    """

    sparse_kept = 0.0

    @pytest.fixture(scope="class")
    @classmethod
    def oracle(cls, index):
        return in_memory(index)

    @pytest.fixture
    def native(self):
        """A filter in the engine's own language, and the neutral one that says the same."""
        raise NotImplementedError

    def assert_is_brute_force(self, index, oracle, native, neutral):
        engine, brute_force = HybridRetriever(index, **EVERYTHING), HybridRetriever(oracle, **EVERYTHING)
        for query in QUERIES[::4]:
            assert_same_hits(engine.search(query, 8, filter=native), brute_force.search(query, 8, filter=neutral))

    @pytest.mark.parametrize("fusion", ["weighted", "rrf"])
    def test_is_brute_force_where_the_candidates_cover_the_corpus(self, index, oracle, fusion):
        engine, brute_force = (HybridRetriever(one, **EVERYTHING, fusion=fusion) for one in (index, oracle))
        for got, expected in zip(engine.search_many(QUERIES, 20), brute_force.search_many(QUERIES, 20), strict=True):
            if fusion == "weighted":
                assert_same_hits(got, expected)
            else:
                assert [hit.id for hit in got] == [hit.id for hit in expected]

    @pytest.mark.parametrize("wanted", [filters.eq("lang", "ja"), filters.gte("number", 90)], ids=str)
    def test_is_brute_force_within_a_filter(self, index, oracle, wanted):
        self.assert_is_brute_force(index, oracle, wanted, wanted)

    def test_is_brute_force_within_a_native_filter(self, index, oracle, native):
        self.assert_is_brute_force(index, oracle, *native)

    def test_scores_are_exact_for_every_member_of_a_small_union(self, index, oracle, encoder):
        for query in QUERIES:
            embedded = encoder.encode_queries([query])
            union = [hit.id for head in index.candidates(embedded, 3).values() for hit in head]
            assert 3 <= len(set(union)) <= 6
            exact = oracle.score(embedded, union)
            for i, scores in index.score(embedded.select(["dense", "sparse"]), union).items():
                assert scores.dense == pytest.approx(exact[i].dense, abs=1e-6)
                assert scores.sparse == pytest.approx(exact[i].sparse, rel=1e-6, abs=1e-6)
                assert scores.multi_vector is None

    def test_candidates_are_those_of_brute_force(self, index, oracle, encoder):
        for query in QUERIES:
            embedded = encoder.encode_queries([query], heads=["dense", "sparse"])
            got, expected = index.candidates(embedded, 10), oracle.candidates(embedded, 10)
            for head in ("dense", "sparse"):
                scores = [hit.score for hit in expected[head]]
                assert [hit.score for hit in got[head]] == pytest.approx(scores, abs=1e-5)
            assert all(hit.score > 0 for hit in got["sparse"])

    @pytest.mark.parametrize(("codec", "tolerance"), [("float16", 2e-3), ("binary", 1.0)])
    def test_every_codec_scores_what_it_kept(self, make, encoder, codec, tolerance):
        index, exact = make(codec=codec), InMemoryHybridIndex(encoder=encoder, codec=None)
        documents = random_documents(12)
        index.upsert(documents)
        exact.upsert(documents)
        query, ids = encoder.encode_queries(["The quick brown fox"]), [document.id for document in documents]
        got = index.score(query, ids)
        for i, scores in in_memory(index).score(query, ids).items():
            assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=1e-5)
        for i, scores in exact.score(query, ids).items():
            # 2^-11 of a component, over at most 32 of them; binary: a bit each
            assert got[i].multi_vector == pytest.approx(scores.multi_vector, abs=tolerance)
            assert got[i].dense == pytest.approx(scores.dense, abs=1e-6)
            assert got[i].sparse == pytest.approx(scores.sparse, rel=self.sparse_kept, abs=1e-6)

    def test_weights_choose_the_heads(self, index, oracle):
        weights = HybridWeights(dense=0, sparse=1, multi_vector=0)
        got, expected = (HybridRetriever(one, weights=weights).search("lazy dog", 5) for one in (index, oracle))
        assert [hit.id for hit in got] == [hit.id for hit in expected]
