"""What an index finds for one query, ranked by each combination of the heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from m3plugins.encoding.output import M3Output
from m3plugins.fusion import HybridWeights, best_first, weighted_sum
from m3plugins.retrieval.index import HybridIndex
from m3plugins.scoring.heads import HeadScores

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
    `candidates` too, but every document is scored once for all rows.

    Args:
        index: Where to search.
        query: Embeddings of one text, all heads.
        k: How many documents a ranking holds at most.
        candidates: How many documents the dense and the sparse head propose each, and how many of their
            union, by the D+S score, the multi-vector head ranks. At the size of the corpus, that is exact.

    Returns:
        Document ids by row, best first; equal scores by id.
    """
    first_stage = query.select(("dense", "sparse"))
    proposed: dict[str, list[str]] = {
        head: [candidate.id for candidate in found]
        for head, found in index.candidates(first_stage, max(candidates, k)).items()
    }
    union = list(dict.fromkeys(i for ids in proposed.values() for i in ids))
    scores = index.score(first_stage, union)
    shortlist = _best(scores, scores, ROWS["D+S"])[: max(candidates, k)]
    late = index.score(query.select(("multi_vector",)), shortlist)
    scores = {i: replace(s, multi_vector=late[i].multi_vector) if i in late else s for i, s in scores.items()}
    pools = {**proposed, "D+S": union}
    return {row: _best(pools.get(row, late), scores, weights)[:k] for row, weights in ROWS.items()}


def _best(ids: Iterable[str], scores: Mapping[str, HeadScores], weights: HybridWeights) -> list[str]:
    # One that was deleted meanwhile has no scores.
    return best_first({i: weighted_sum(scores[i], weights) for i in ids if i in scores})
