"""M3's ranking, once for every engine."""

from __future__ import annotations

import asyncio
from collections import Counter
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

_REACH = (1, 4, 16)
"""Times the candidates, until there are passages of enough parents."""


@dataclass(frozen=True)
class _Ranked:
    id: str
    score: float
    scores: HeadScores


@dataclass(frozen=True)
class _Ranking:
    best: list[_Ranked]
    may_grow: bool
    """Whether asking for more candidates could add to it."""


@dataclass(frozen=True)
class _Options:
    k: int
    filter: AnyFilter | None
    weights: HybridWeights
    min_score: float | None
    offset: int
    per_parent: int | None

    def __post_init__(self) -> None:
        _check_positive("k", self.k)
        if self.per_parent is not None:
            _check_positive("per_parent", self.per_parent)
        if isinstance(self.offset, bool) or not isinstance(self.offset, int | np.integer) or self.offset < 0:
            msg = f"offset must be an integer >= 0, got {self.offset!r}"
            raise ValueError(msg)


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
        candidates: Documents that each of the dense and sparse heads (and BM25, if its weight is > 0)
            proposes, or k if that is more.
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
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[Hit]:
        """The best k documents for a query, best first; equal scores (within 1e-6) by id.

        Args:
            query: The question.
            k: How many documents to return at most.
            filter: Only documents whose metadata match.
            weights: In place of the retriever's own.
            min_score: Leave out hits that score less.
            offset: How many of the best to pass over. Pages are consistent up to `candidates` and
                `multi_vector_depth`; beyond, and where `per_parent` needs more candidates, a deeper page
                considers more documents.
            per_parent: How many passages of one parent to return at most, the best ones; 1 gives each
                parent's best passage. A document without a parent is its own. Where few parents have all
                the best passages, up to 16 times as many candidates are looked at.

        Raises:
            ValueError: If `k` or `per_parent` is not positive, `offset` is negative, or a page is beyond
                what is reranked.
        """
        options = _Options(k, filter, weights or self.weights, min_score, offset, per_parent)
        return self._search_many([query], options)[0]

    def search_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[list[Hit]]:
        """`search` for several queries, encoded together."""
        if isinstance(queries, str):
            msg = "search_many takes a list of queries; use search for one"
            raise TypeError(msg)
        return self._search_many(
            list(queries), _Options(k, filter, weights or self.weights, min_score, offset, per_parent)
        )

    async def asearch(
        self,
        query: str,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[Hit]:
        """`search` in a thread, so that the event loop goes on."""
        options = _Options(k, filter, weights or self.weights, min_score, offset, per_parent)
        return (await asyncio.to_thread(self._search_many, [query], options))[0]

    async def asearch_many(
        self,
        queries: Iterable[str],
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[list[Hit]]:
        """`search_many` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(
            self.search_many,
            queries,
            k,
            filter=filter,
            weights=weights,
            min_score=min_score,
            offset=offset,
            per_parent=per_parent,
        )

    def search_embedded(
        self,
        query: str,
        embedding: M3Output,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,  # noqa: A002
        weights: HybridWeights | None = None,
        min_score: float | None = None,
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[Hit]:
        """`search` with a query that is encoded already; its text is for BM25 and for the reranker.

        Args:
            query: The question.
            embedding: Its output, of length 1, with the heads that `weights` use.
            k: How many documents to return at most.
            filter: Only documents whose metadata match.
            weights: In place of the retriever's own.
            min_score: Leave out hits that score less.
            offset: How many of the best to pass over.
            per_parent: How many passages of one parent to return at most.
        """
        options = _Options(k, filter, weights or self.weights, min_score, offset, per_parent)
        return self._search(query, embedding, options)

    def _search_many(self, queries: list[str], options: _Options) -> list[list[Hit]]:
        if not queries:
            return []
        heads = {*_first_stage(options.weights), *options.weights.heads}
        embedded = self.index.encoder.encode_queries(queries, heads=heads)
        return [self._search(query, embedded[row], options) for row, query in enumerate(queries)]

    def _search(self, query: str, embedding: M3Output, options: _Options) -> list[Hit]:
        wanted = options.offset + options.k
        depth = wanted if self.reranker is None else max(wanted, self.rerank_depth)
        if self.reranker is not None and options.offset and wanted > self.rerank_depth:
            msg = f"pages of reranked hits end at rerank_depth={self.rerank_depth}, got offset + k = {wanted}; raise it"
            raise ValueError(msg)
        for reach in _REACH if options.per_parent else _REACH[:1]:
            ranking = self._rank(query, embedding, wanted, reach, options)
            hits = self._fetch(ranking.best, depth, options.per_parent)
            if len(hits) >= depth or not ranking.may_grow:
                break
        if self.reranker is not None:
            hits = rerank(self.reranker, query, hits)
        page = hits[options.offset : wanted]
        return [hit for hit in page if options.min_score is None or hit.score >= options.min_score]

    def _fetch(self, ranked: list[_Ranked], depth: int, per_parent: int | None) -> list[Hit]:
        """The best `depth` documents, those that are still there, at most `per_parent` of each parent."""
        hits: list[Hit] = []
        taken: Counter[tuple[str, str]] = Counter()
        for start in range(0, len(ranked), depth):
            some = {item.id: item for item in ranked[start : start + depth]}
            for document in self.index.get(list(some)):
                family = ("id", document.id) if document.parent_id is None else ("parent_id", document.parent_id)
                taken[family] += 1
                if per_parent is None or taken[family] <= per_parent:
                    item = some[document.id]
                    hits.append(Hit(document=document, score=item.score, scores=item.scores))
            if len(hits) >= depth:
                break
        return hits[:depth]

    def _rank(self, text: str, query: M3Output, wanted: int, reach: int, options: _Options) -> _Ranking:
        weights = options.weights
        first_stage = query.select(_first_stage(weights))
        words = text if weights.bm25 else None
        limit = reach * max(self.candidates, wanted)
        proposed = self.index.candidates(first_stage, limit, options.filter, text=words)
        union = list(dict.fromkeys(candidate.id for leg in proposed.values() for candidate in leg))
        scores = self.index.score(first_stage, union, text=words)
        may_grow = any(len(leg) == limit for leg in proposed.values())
        if weights.multi_vector:
            order = weights if weights.dense or weights.sparse else HybridWeights(bm25=weights.bm25)
            shortlist = best_first({i: weighted_sum(score, order) for i, score in scores.items()})
            late_depth = reach * max(self.multi_vector_depth, wanted)
            may_grow = may_grow or len(shortlist) > late_depth
            late = self.index.score(query.select(["multi_vector"]), shortlist[:late_depth])
            scores = {i: replace(scores[i], multi_vector=score.multi_vector) for i, score in late.items()}
        return _Ranking(self._fuse(scores, weights), may_grow)

    def _fuse(self, scores: dict[str, HeadScores], weights: HybridWeights) -> list[_Ranked]:
        ids = sorted(scores)
        if self.fusion == "rrf" and ids:
            fused = reciprocal_rank_fusion(
                [[getattr(scores[i], leg) or 0.0 for i in ids] for leg in weights.legs]
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
