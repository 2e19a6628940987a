"""M3's ranking, once for every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from m3plugins.encoding.output import Head, M3Output
from m3plugins.fusion import HybridWeights, best_first, reciprocal_rank_fusion, weighted_sum
from m3plugins.reranking.protocol import Reranker
from m3plugins.retrieval.document import Hit
from m3plugins.retrieval.index import AnyFilter, HybridIndex
from m3plugins.scoring.heads import HeadScores


@dataclass(frozen=True)
class _Ranked:
    id: str
    score: float
    scores: HeadScores


class HybridRetriever:
    """Searches a `HybridIndex` with the three heads of M3.

    Dense and sparse candidates are joined and scored exactly on both heads; the best
    `multi_vector_depth` of them, by the weighted dense + sparse score, are also scored by their token
    vectors, and only those go on to fusion and to the reranker. Where `candidates` and
    `multi_vector_depth` reach the size of the corpus, this is brute force.

    Args:
        index: Where to search.
        weights: How much each head counts; a head of weight 0 is not used.
        fusion: "weighted" (the raw weighted sum) or "rrf" (reciprocal ranks of the heads with a
            weight > 0, k = 60, whatever the weights).
        candidates: Documents that each of the dense and sparse heads proposes, or k if that is more.
        multi_vector_depth: Documents scored by their token vectors, or k if that is more.
        reranker: Gives the best `rerank_depth` hits their final score.
        rerank_depth: Documents to rerank, or k if that is more; with a reranker only those are returned.

    Raises:
        ValueError: If an option is out of its range.
    """

    def __init__(
        self,
        index: HybridIndex,
        *,
        weights: HybridWeights | None = None,
        fusion: Literal["weighted", "rrf"] = "weighted",
        candidates: int = 100,
        multi_vector_depth: int = 100,
        reranker: Reranker | None = None,
        rerank_depth: int = 20,
    ) -> None:
        if fusion not in ("weighted", "rrf"):
            msg = f'fusion must be "weighted" or "rrf", got {fusion!r}'
            raise ValueError(msg)
        options = {"candidates": candidates, "multi_vector_depth": multi_vector_depth, "rerank_depth": rerank_depth}
        for name, value in options.items():
            _check_positive(name, value)
        self.index = index
        self.weights = weights or HybridWeights()
        self.fusion = fusion
        self.candidates = candidates
        self.multi_vector_depth = multi_vector_depth
        self.reranker = reranker
        self.rerank_depth = rerank_depth

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """The best k documents for a query, best first; equal scores (within 1e-6) by id.

        Args:
            query: The question.
            k: How many documents to return at most.
            filter: Only documents whose metadata match.
            weights: In place of the retriever's own.
            min_score: Leave out hits that score less.

        Raises:
            ValueError: If `k` is not positive.
        """
        return self.search_many([query], k, filter=filter, weights=weights, min_score=min_score)[0]

    def search_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
    ) -> list[list[Hit]]:
        """`search` for several queries, encoded together."""
        _check_positive("k", k)
        if isinstance(queries, str):
            msg = "search_many takes a list of queries; use search for one"
            raise TypeError(msg)
        queries = list(queries)
        if not queries:
            return []
        weights = weights or self.weights
        embedded = self.index.encoder.encode_queries(queries, heads={*_first_stage(weights), *weights.heads})
        return [
            self.search_embedded(query, embedded[row], k, filter=filter, weights=weights, min_score=min_score)
            for row, query in enumerate(queries)
        ]

    async def asearch(
        self,
        query: str,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """`search` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.search, query, k, filter=filter, weights=weights, min_score=min_score)

    def search_embedded(
        self,
        query: str,
        embedding: M3Output,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """`search` with a query that is encoded already; its text is for the reranker.

        Args:
            query: The question.
            embedding: Its output, of length 1, with the heads that `weights` use.
            k: How many documents to return at most.
            filter: Only documents whose metadata match.
            weights: In place of the retriever's own.
            min_score: Leave out hits that score less.
        """
        _check_positive("k", k)
        weights = weights or self.weights
        ranked = self._rank(embedding, k, filter, weights)
        depth = k if self.reranker is None else max(k, self.rerank_depth)
        kept = {item.id: item for item in ranked[:depth]}
        hits = [
            Hit(document=document, score=kept[document.id].score, scores=kept[document.id].scores)
            for document in self.index.get(list(kept))
        ]
        if self.reranker is not None:
            hits = rerank(self.reranker, query, hits)
        return [hit for hit in hits[:k] if min_score is None or hit.score >= min_score]

    def _rank(self, query: M3Output, k: int, filter: AnyFilter | None, weights: HybridWeights) -> list[_Ranked]:  # noqa: A002
        first_stage = query.select(_first_stage(weights))
        proposed = self.index.candidates(first_stage, max(self.candidates, k), filter)
        union = list(dict.fromkeys(candidate.id for head in proposed.values() for candidate in head))
        scores = self.index.score(first_stage, union)
        if weights.multi_vector:
            order = weights if weights.dense or weights.sparse else HybridWeights()
            shortlist = best_first({i: weighted_sum(score, order) for i, score in scores.items()})
            late = self.index.score(query.select(["multi_vector"]), shortlist[: max(self.multi_vector_depth, k)])
            scores = {i: replace(scores[i], multi_vector=score.multi_vector) for i, score in late.items()}
        return self._fuse(scores, weights)

    def _fuse(self, scores: dict[str, HeadScores], weights: HybridWeights) -> list[_Ranked]:
        ids = sorted(scores)
        if self.fusion == "rrf" and ids:
            fused = reciprocal_rank_fusion(
                [[getattr(scores[i], head) or 0.0 for i in ids] for head in weights.heads]
            ).tolist()
        else:
            fused = [weighted_sum(scores[i], weights) for i in ids]
        by_id = dict(zip(ids, fused, strict=True))
        return [_Ranked(i, by_id[i], scores[i]) for i in best_first(by_id)]


def rerank(reranker: Reranker, query: str, hits: Iterable[Hit]) -> list[Hit]:
    """The hits with the reranker's scores, best first; equal scores (within 1e-6) by id."""
    hits = list(hits)
    if not hits:
        return []
    scores = reranker.score(query, [hit.document.content for hit in hits])
    rescored = {hit.id: replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)}
    return [rescored[i] for i in best_first({i: hit.score for i, hit in rescored.items()})]


def _first_stage(weights: HybridWeights) -> tuple[Head, ...]:
    """The heads that propose candidates: those that count, and both where multi-vector counts and dense does not.

    The sparse head alone never proposes a document that shares no token with the query.
    """
    if weights.multi_vector and not weights.dense:
        return ("dense", "sparse")
    return tuple(head for head in weights.heads if head != "multi_vector")


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        msg = f"{name} must be a positive integer, got {value!r}"
        raise ValueError(msg)
