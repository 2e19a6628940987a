"""M3's ranking, once for every engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Real
from typing import TypedDict, get_args

import numpy as np
from typing_extensions import Unpack

from m3plugins.encoding.output import M3Output
from m3plugins.fusion import HybridWeights, best_first
from m3plugins.fusion.weighted import check_weights
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.index import HybridIndex
from m3plugins.reranking.protocol import Reranker
from m3plugins.retrieval.hit import Hit
from m3plugins.retrieval.pool import Documents, Pool, rank
from m3plugins.retrieval.ranking import Fusion, proposing


class SearchOptions(TypedDict, total=False):
    """Options that every search takes; `HybridRetriever.search` says what they mean."""

    filter: AnyFilter | None
    weights: HybridWeights | None
    min_score: float | None
    offset: int
    per_parent: int | None


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A search that was checked, with the retriever's own weights where none are given."""

    k: int
    weights: HybridWeights
    filter: AnyFilter | None
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
        if self.min_score is not None and (not isinstance(self.min_score, Real) or math.isnan(self.min_score)):
            msg = f"min_score must be a number or None, got {self.min_score!r}"
            raise TypeError(msg)


@dataclass(frozen=True, eq=False)
class HybridRetriever:
    """Searches a `HybridIndex` with the three heads of M3.

    Dense and sparse candidates are joined and scored exactly on both heads; the best
    `multi_vector_depth` of them, by the weighted dense + sparse score, are also scored by their token
    vectors, and only those go on to fusion and to the reranker. (Where multi-vector counts and dense does not, both
    heads still propose, and what has no weight counts by its default one in that choice: dense 1, sparse 0.3.)
    Where `candidates` and `multi_vector_depth` reach the size of the corpus, this is brute force.

    A retriever never changes; `dataclasses.replace(retriever, fusion="rrf")` makes another one.

    Attributes:
        index: Where to search.
        weights: How much each head counts; a head of weight 0 is not used.
        fusion: "weighted" (the raw weighted sum) or "rrf" (weighted reciprocal ranks: the sum over the signals of
            weight / (60 + rank), by the exact ranks among all candidates; where its sparse or BM25 score is 0,
            a document is absent from that signal's list).
        candidates: Documents that each of the dense and sparse heads (and BM25, if its weight is > 0)
            proposes, or k if that is more.
        multi_vector_depth: Documents scored by their token vectors, or k if that is more.
        reranker: Gives the best `rerank_depth` hits their final score.
        rerank_depth: Documents to rerank, or k if that is more; with a reranker only those are returned.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If an option is out of its range.
    """

    index: HybridIndex
    _: KW_ONLY
    weights: HybridWeights = HybridWeights()
    fusion: Fusion = "weighted"
    candidates: int = 100
    multi_vector_depth: int = 100
    reranker: Reranker | None = None
    rerank_depth: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.index, HybridIndex):
            msg = f"index must be a HybridIndex, such as InMemoryHybridIndex(encoder=encoder), got {self.index!r}"
            raise TypeError(msg)
        check_weights(self.weights)
        if self.reranker is not None and (isinstance(self.reranker, type) or not isinstance(self.reranker, Reranker)):
            msg = f"reranker must have score(query, texts), as M3Reranker(encoder) has, got {self.reranker!r}"
            raise TypeError(msg)
        if self.fusion not in get_args(Fusion):
            msg = f'fusion must be "weighted" or "rrf", got {self.fusion!r}'
            raise ValueError(msg)
        for name in ("candidates", "multi_vector_depth", "rerank_depth"):
            _check_positive(name, getattr(self, name))

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        filter: AnyFilter | None = None,
        weights: HybridWeights | None = None,
        min_score: float | None = None,
        offset: int = 0,
        per_parent: int | None = None,
    ) -> list[Hit]:
        """The best k documents for a query, best first; equal scores (within 1e-6) by id.

        Args:
            query: The question. With an empty one every document is found, in the order of what the model makes of
                no text.
            k: How many documents to return at most.
            filter: Only documents whose metadata match.
            weights: In place of the retriever's own.
            min_score: Leave out hits that score less.
            offset: How many of the best to pass over. Pages are consistent up to `candidates` and
                `multi_vector_depth`; beyond, and where `per_parent` needs more candidates, a deeper page
                considers more documents.
            per_parent: How many passages of one parent to return at most, the best ones; 1 gives each
                parent's best passage. A document without a parent is its own. Where few parents have all
                the best passages, 4 and then 16 times as many candidates are looked at, as long as that
                finds more parents.

        Raises:
            TypeError: If the query is not a string, or an option is of the wrong kind.
            ValueError: If `k` or `per_parent` is not positive, `offset` is negative, or a page is beyond
                what is reranked.
        """
        found = self.search_many(
            [_check_query("query", query)],
            k,
            filter=filter,
            weights=weights,
            min_score=min_score,
            offset=offset,
            per_parent=per_parent,
        )
        return found[0]

    def search_many(self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchOptions]) -> list[list[Hit]]:
        """`search` for several queries, encoded together."""
        if isinstance(queries, str):
            msg = "search_many takes a list of queries; use search for one"
            raise TypeError(msg)
        search = self._checked(k, options)
        return self._search_many([_check_query(f"queries[{row}]", query) for row, query in enumerate(queries)], search)

    async def asearch(self, query: str, k: int = 10, **options: Unpack[SearchOptions]) -> list[Hit]:
        """`search` in a thread, so that the event loop goes on."""
        found = await asyncio.to_thread(self.search_many, [_check_query("query", query)], k, **options)
        return found[0]

    async def asearch_many(
        self, queries: Iterable[str], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """`search_many` in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.search_many, queries, k, **options)

    def search_embedded(
        self, query: str, embedding: M3Output, k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[Hit]:
        """`search` with a query that is encoded already; its text is for BM25 and for the reranker.

        Args:
            query: The question.
            embedding: Its output, of length 1, with the heads that the weights use.
            k: How many documents to return at most.
            options: As in `search`.
        """
        return self._search(_check_query("query", query), embedding, self._checked(k, options))

    def _checked(self, k: int, options: SearchOptions) -> _Search:
        if unknown := sorted(options.keys() - SearchOptions.__annotations__.keys()):
            msg = f"unknown option {', '.join(unknown)}; a search takes {', '.join(SearchOptions.__annotations__)}"
            raise TypeError(msg)
        weights = options.get("weights")
        return _Search(
            k=k,
            weights=self.weights if weights is None else check_weights(weights),
            filter=options.get("filter"),
            min_score=options.get("min_score"),
            offset=options.get("offset", 0),
            per_parent=options.get("per_parent"),
        )

    def _search_many(self, queries: list[str], search: _Search) -> list[list[Hit]]:
        if not queries:
            return []
        heads = {*proposing(search.weights), *search.weights.heads} - {"bm25"}
        embedded = self.index.encoder.encode_queries(queries, heads=heads)
        return [self._search(query, embedded[row], search) for row, query in enumerate(queries)]

    def _search(self, query: str, embedding: M3Output, search: _Search) -> list[Hit]:
        wanted = search.offset + search.k
        if self.reranker is not None and search.offset and wanted > self.rerank_depth:
            msg = f"pages of reranked hits end at rerank_depth={self.rerank_depth}, got offset + k = {wanted}; raise it"
            raise ValueError(msg)
        documents = Documents(self.index)
        ranked = rank(
            Pool(self.index, embedding, proposing(search.weights), text=query, filter=search.filter),
            documents.families,
            weights=search.weights,
            fusion=self.fusion,
            count=wanted if self.reranker is None else max(wanted, self.rerank_depth),
            candidates=max(self.candidates, wanted),
            multi_vector_depth=max(self.multi_vector_depth, wanted),
            per_parent=search.per_parent,
        )
        hits = [Hit(document=documents[item.id], score=item.score, scores=item.scores) for item in ranked]
        if self.reranker is not None:
            hits = rerank(self.reranker, query, hits)
        page = hits[search.offset : wanted]
        return [hit for hit in page if search.min_score is None or hit.score >= search.min_score]


def rerank(reranker: Reranker, query: str, hits: Iterable[Hit]) -> list[Hit]:
    """The hits with the reranker's scores, best first; equal scores (within 1e-6) by id."""
    hits = list(hits)
    if not hits:
        return []
    scores = reranker.score(query, [hit.document.content for hit in hits])
    rescored = {hit.id: replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)}
    return [rescored[i] for i in best_first({i: hit.score for i, hit in rescored.items()})]


def _check_query(name: str, query: str) -> str:
    if not isinstance(query, str):
        msg = f"{name} must be a string, got {query!r}"
        raise TypeError(msg)
    return query


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        msg = f"{name} must be a positive integer, got {value!r}"
        raise ValueError(msg)
