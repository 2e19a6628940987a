"""M3's ranking as pure functions: who proposes, which of the union go on, what they score, how many a parent keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from m3plugins.fusion import HybridWeights, best_first, reciprocal_rank_fusion, weighted_sum
from m3plugins.indexing.document import Document
from m3plugins.scoring.heads import HeadScores, Signal

Fusion = Literal["weighted", "rrf"]

Family = tuple[str, str]
"""What documents of one parent share: ("parent_id", its id). A document without a parent is alone: ("id", its id)."""

Families = Callable[[Sequence[str]], Mapping[str, Family]]
"""The family of each of these documents, in their order; those that are gone are left out."""

_DEFAULTS = HybridWeights()
_SLICE = 100


def proposing(weights: HybridWeights) -> tuple[Signal, ...]:
    """Selects the signals that propose candidates: those that count, and, for multi-vector without dense, both others.

    The multi-vector head proposes nothing, and the sparse head never proposes a document that shares no token with
    the query.

    Example:
        >>> proposing(HybridWeights(sparse=0)), proposing(HybridWeights(dense=0))
        (('dense',), ('dense', 'sparse'))
    """
    signals: tuple[Signal, ...] = tuple(signal for signal in weights.signals if signal != "multi_vector")
    if weights.multi_vector and not weights.dense:
        return tuple(dict.fromkeys(("dense", "sparse", *signals)))
    return signals


def union(proposed: Iterable[Iterable[str]]) -> list[str]:
    """The distinct ids of all lists."""
    return list(dict.fromkeys(i for ids in proposed for i in ids))


def shortlist(scores: Mapping[str, HeadScores], weights: HybridWeights, depth: int) -> list[str]:
    """The best of the union by the weighted sum of what proposed it: those whose token vectors are compared.

    A head that proposes without a weight counts by its default weight (dense 1, sparse 0.3); by its own, what it
    alone proposed would come last and be cut. A weight above 0 counts as it is, however small: with one of 1e-9, what
    that head alone proposed does come last.

    Args:
        scores: Of the union, on the signals that proposed it.
        weights: Of the search; the multi-vector head counts.
        depth: How many go on.

    Example:
        >>> scores = {"near": HeadScores(dense=0.9, sparse=0.0), "shares a word": HeadScores(dense=0.1, sparse=0.2)}
        >>> shortlist(scores, HybridWeights(dense=0, sparse=0.01), depth=1)
        ['near']
    """
    counted = {signal: getattr(weights, signal) or getattr(_DEFAULTS, signal) for signal in proposing(weights)}
    order = HybridWeights(**{"dense": 0.0, "sparse": 0.0, **counted, "multi_vector": 0.0})
    return best_first({i: weighted_sum(score, order) for i, score in scores.items()})[:depth]


def listed(scores: Mapping[str, HeadScores], signal: Signal) -> dict[str, float]:
    """Selects the scores of the documents that a signal ranks, among which a sparse or BM25 score of 0 is no match.

    Example:
        >>> listed({"a": HeadScores(sparse=0.2), "b": HeadScores(sparse=0.0)}, "sparse")
        {'a': 0.2}
    """
    column = {i: getattr(score, signal) for i, score in scores.items()}
    lexical = signal in ("sparse", "bm25")
    return {i: value for i, value in column.items() if value is not None and (value > 0 or not lexical)}


def fuse(
    scores: Mapping[str, HeadScores], ids: Collection[str], weights: HybridWeights, fusion: Fusion
) -> dict[str, float]:
    """The final scores, before any reranker.

    Args:
        scores: Of the union; reciprocal ranks are those within it.
        ids: Of the documents that go on.
        weights: How much each signal counts.
        fusion: "weighted" or "rrf".

    Returns:
        Scores of `ids`, in their order.
    """
    if fusion == "weighted":
        return {i: weighted_sum(scores[i], weights) for i in ids}
    columns = [listed(scores, signal) for signal in weights.signals]
    fused = reciprocal_rank_fusion(
        [[column.get(i) for i in scores] for column in columns],
        weights=[getattr(weights, signal) for signal in weights.signals],
    )
    by_id = dict(zip(scores, fused.tolist(), strict=True))
    return {i: by_id[i] for i in ids}


def family(document: Document) -> Family:
    """Which other documents it is grouped with."""
    return ("id", document.id) if document.parent_id is None else ("parent_id", document.parent_id)


def first_of_families(ids: Sequence[str], count: int, per_parent: int | None, families: Families) -> list[str]:
    """The first `count` of a ranking that are there, at most `per_parent` of each family (None: any number).

    Families are looked up a slice at a time, since most rankings need the first slice alone.
    """
    found: list[str] = []
    taken: Counter[Family] = Counter()
    for start in range(0, len(ids), count):
        for i, own in families(ids[start : start + count]).items():
            taken[own] += 1
            if per_parent is None or taken[own] <= per_parent:
                found.append(i)
        if len(found) >= count:
            break
    return found[:count]


def has_room(ids: Sequence[str], others: Sequence[str], per_parent: int, families: Families) -> bool:
    """Whether one of `ids` is of a family that has fewer than `per_parent` documents among the `others`."""
    taken = Counter(families(others).values())
    slices = (ids[start : start + _SLICE] for start in range(0, len(ids), _SLICE))
    return any(taken[own] < per_parent for some in slices for own in families(some).values())
