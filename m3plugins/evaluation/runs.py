"""Rankings of an index's documents for one query, by each combination of the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from m3plugins.encoding.output import M3Output
from m3plugins.fusion import HybridWeights
from m3plugins.indexing.index import HybridIndex
from m3plugins.retrieval.pool import Documents, Pool, rank
from m3plugins.retrieval.ranking import Family

Run = Mapping[str, Sequence[str]]
"""Document ids by query id, best first."""

ROWS: Mapping[str, HybridWeights] = {
    "dense": HybridWeights(dense=1, sparse=0, multi_vector=0),
    "sparse": HybridWeights(dense=0, sparse=1, multi_vector=0),
    "multi-vector": HybridWeights(dense=0, sparse=0, multi_vector=1),
    "D+S": HybridWeights(dense=1, sparse=0.3, multi_vector=0),
    "All": HybridWeights(dense=1, sparse=0.3, multi_vector=1),
}
"""The rows of the paper's tables, with its weights."""


def rank_rows(index: HybridIndex, query: M3Output, *, k: int, candidates: int) -> dict[str, list[str]]:
    """Ranks the documents of an index for one query, once for each of `ROWS`.

    The same rankings that a `HybridRetriever` with these weights gives, where `multi_vector_depth` is
    `candidates` too, but every document is scored once for all rows. Of an index made with `passages` it ranks
    the documents that they are of, each by its best passage (MaxP: Dai and Callan, SIGIR 2019), as `per_parent=1` does.

    Args:
        index: The index to search.
        query: Embeddings of one text, all heads.
        k: Most documents of a ranking.
        candidates: Number of documents (or passages) that the dense and the sparse head propose each, and that the
            multi-vector head ranks of their union, the best by the D+S score. At the size of the index, that is exact.

    Returns:
        Document ids by row, best first; equal scores by id.
    """
    pool, documents = Pool(index, query, ("dense", "sparse")), Documents(index)
    cut = index.passages is not None
    found: dict[str, list[str]] = {}
    for row, weights in ROWS.items():
        ranked = rank(
            pool,
            documents.families if cut else _alone,
            weights=weights,
            count=k,
            candidates=max(candidates, k),
            multi_vector_depth=max(candidates, k),
            per_parent=1 if cut else None,
        )
        found[row] = [documents[item.id].parent_id or item.id if cut else item.id for item in ranked]
    return found


def _alone(ids: Sequence[str]) -> dict[str, Family]:
    """Makes families of documents that are not passages, without asking the index."""
    return {i: ("id", i) for i in ids}
