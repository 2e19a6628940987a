"""What any engine finds: the candidates and the scores of brute force over what it has stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Output
from m3plugins.fusion import best_first, reciprocal_rank_fusion, weighted_sum
from m3plugins.retrieval import Hit, filters
from tests.tiny import SENTENCES, random_documents

QUERIES = [*SENTENCES, "", "zzz unseen", "fox 狐 лиса"]
EVERYTHING = {"candidates": 100, "multi_vector_depth": 100}
LATE = [
    HybridWeights(),
    HybridWeights(sparse=0),
    HybridWeights(dense=0, sparse=0),
    HybridWeights(dense=0, sparse=0.01),
    HybridWeights(dense=0.15, sparse=0.5, multi_vector=0.35),
]
"""Weights that count token vectors."""


def in_memory(index: HybridIndex) -> InMemoryHybridIndex:
    """The same documents with the embeddings that the index holds (so the codec's error is in both)."""
    oracle = InMemoryHybridIndex(encoder=index.encoder, codec=None)
    stored = list(index.scan(with_embeddings=True))
    oracle.upsert([document for document, _ in stored], embeddings=[output for _, output in stored])
    return oracle


def as_documented(
    index: HybridIndex, query: M3Output, weights: HybridWeights, fusion: str, candidates: int, depth: int
) -> dict[str, float]:
    """The fused scores, best first, step by step as the README tells them, from the scores of all documents."""
    exact = index.score(query, [document.id for document in index.scan()])
    heads = ("dense",) if weights.dense and not weights.sparse else ("dense", "sparse")
    proposed = index.candidates(query.select(heads), candidates)
    union = {hit.id: exact[hit.id] for head in heads for hit in proposed[head]}
    order = HybridWeights(
        dense=weights.dense or 1, sparse=weights.sparse or (0 if weights.dense else 0.3), multi_vector=0
    )
    shortlist = best_first({i: weighted_sum(score, order) for i, score in union.items()})[:depth]
    if fusion == "weighted":
        fused = {i: weighted_sum(union[i], weights) for i in shortlist}
    else:
        columns = {
            "dense": [score.dense for score in union.values()],
            "sparse": [score.sparse or None for score in union.values()],
            "multi_vector": [score.multi_vector if i in shortlist else None for i, score in union.items()],
        }
        scores = reciprocal_rank_fusion(
            [columns[head] for head in weights.heads], weights=[getattr(weights, head) for head in weights.heads]
        )
        fused = {i: score for i, score in zip(union, scores.tolist(), strict=True) if i in shortlist}
    return {i: fused[i] for i in best_first(fused)}


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

    @pytest.mark.parametrize("fusion", ["weighted", "rrf"])
    @pytest.mark.parametrize("weights", LATE, ids=str)
    def test_the_ranking_is_the_documented_one(self, index, encoder, weights, fusion):
        """Also where candidates and depth leave most of the corpus out."""
        retriever = HybridRetriever(index, weights=weights, fusion=fusion, candidates=9, multi_vector_depth=6)
        for text in QUERIES[::4]:
            query = encoder.encode_queries([text])
            expected = as_documented(index, query, weights, fusion, candidates=9, depth=6)
            found = retriever.search_embedded(text, query, k=6)
            assert [hit.score for hit in found] == pytest.approx(list(expected.values()), abs=1e-5)
            assert {hit.id for hit in found} == expected.keys()

    @pytest.mark.parametrize("sparse", [0, 0.01])
    def test_what_only_dense_proposes_is_found_where_dense_has_no_weight(self, empty, encoder, sparse):
        """A document that is first by brute force, and shares no word with the query, unlike all others."""
        query = encoder.encode_queries(["fox"])
        near, far = encoder.encode_documents(["fox"]), encoder.encode_documents([SENTENCES[6]])
        empty.upsert([Document(id="near", text="x")], [replace(near, sparse=far.sparse)])
        others = [Document(id=f"far {n:02}", text="x") for n in range(30)]
        empty.upsert(others, [replace(far, sparse=query.sparse)] * 30)
        for candidates in (100, 5):
            retriever = HybridRetriever(
                empty,
                weights=HybridWeights(dense=0, sparse=sparse, multi_vector=1),
                candidates=candidates,
                multi_vector_depth=candidates,
            )
            assert retriever.search_embedded("fox", query, k=3)[0].id == "near"

    @pytest.mark.parametrize("parents", [1, 2])
    def test_to_find_more_parents_nothing_is_scored_in_vain(self, empty, encoder, monkeypatch, parents):
        """Token vectors are compared only if there is another parent, and no vector is compared twice."""
        near, far = encoder.encode_documents(["fox"]), encoder.encode_documents([SENTENCES[6]])
        empty.upsert([Document(id=f"near {n:02}", text="x", parent_id="p") for n in range(40)], [near] * 40)
        if parents == 2:
            empty.upsert([Document(id="z", text="x", parent_id="another")], [replace(far, sparse=near.sparse)])
        scored: Counter[tuple[str, str]] = Counter()
        score = empty.score

        def counted(query, ids, **options):
            scored.update((i, head) for i in ids for head in query.heads)
            return score(query, ids, **options)

        monkeypatch.setattr(empty, "score", counted)
        retriever = HybridRetriever(empty, candidates=12, multi_vector_depth=12)
        hits = retriever.search("fox", k=3, per_parent=1)
        assert [hit.document.parent_id for hit in hits] == ["p", "another"][:parents]
        assert sum(head == "multi_vector" for _, head in scored) == (12 if parents == 1 else 41)
        assert set(scored.values()) == {1}


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
