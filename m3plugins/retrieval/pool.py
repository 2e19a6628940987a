"""One query's candidates, scored: what a search, an evaluation and the agreement of heads rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from m3plugins.encoding.output import M3Output
from m3plugins.fusion import HybridWeights, best_first
from m3plugins.indexing.document import Document
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.index import HybridIndex
from m3plugins.retrieval.ranking import (
    Families,
    Family,
    Fusion,
    family,
    first_of_families,
    fuse,
    has_room,
    proposing,
    shortlist,
    union,
)
from m3plugins.scoring.heads import HeadScores, Signal

REACH = (1, 4, 16)
"""Multiples of `candidates` to try in turn while they add parents."""


class Pool:
    """What an index proposes for one query, with exact scores; no document is scored twice.

    Args:
        index: Where to search.
        query: The query's embeddings, of length 1.
        signals: What proposes, and what all that is proposed is scored by.
        text: The query itself, for "bm25".
        filter: Only documents that match.

    Attributes:
        scores: Of all that was proposed so far, by id, on the signals.
    """

    def __init__(
        self,
        index: HybridIndex,
        query: M3Output,
        signals: Iterable[Signal],
        *,
        text: str | None = None,
        filter: AnyFilter | None = None,
    ) -> None:
        signals = tuple(signals)
        self.scores: dict[str, HeadScores] = {}
        self._index = index
        self._query = query
        self._first_stage = query.select([signal for signal in signals if signal != "bm25"])
        self._text = text if "bm25" in signals else None
        self._filter = filter
        self._proposed: dict[int, dict[Signal, list[str]]] = {}
        self._late: dict[str, HeadScores] = {}

    def propose(self, limit: int) -> dict[Signal, list[str]]:
        """The ids of the best `limit` documents of each signal; all are then in `scores`, unless they are gone."""
        if limit not in self._proposed:
            found = self._index.candidates(self._first_stage, limit, self._filter, text=self._text)
            self._proposed[limit] = {signal: [candidate.id for candidate in best] for signal, best in found.items()}
            new = [i for i in union(self._proposed[limit].values()) if i not in self.scores]
            self.scores |= self._index.score(self._first_stage, new, text=self._text) if new else {}
        return self._proposed[limit]

    def late_scores(self, ids: Iterable[str]) -> dict[str, HeadScores]:
        """`scores` of these documents with that of the multi-vector head; those that are gone are left out."""
        ids = list(ids)
        if new := [i for i in ids if i not in self._late]:
            late = self._index.score(self._query.select(["multi_vector"]), new)
            self._late |= {i: replace(self.scores[i], multi_vector=late[i].multi_vector) for i in new if i in late}
        return {i: self._late[i] for i in ids if i in self._late}


class Documents:
    """Documents of an index by id, each fetched once."""

    def __init__(self, index: HybridIndex) -> None:
        self._index = index
        self._fetched: dict[str, Document] = {}

    def __getitem__(self, i: str) -> Document:
        """One that `families` has found."""
        return self._fetched[i]

    def families(self, ids: Sequence[str]) -> dict[str, Family]:
        """The family of each, in their order; those that are gone are left out."""
        if new := [i for i in ids if i not in self._fetched]:
            self._fetched |= {document.id: document for document in self._index.get(new)}
        return {i: family(self._fetched[i]) for i in ids if i in self._fetched}


@dataclass(frozen=True)
class Ranked:
    """A document in a ranking.

    Attributes:
        id: The document's.
        score: What it is ordered by.
        scores: Those of each signal.
    """

    id: str
    score: float
    scores: HeadScores


def rank(
    pool: Pool,
    families: Families,
    *,
    weights: HybridWeights,
    fusion: Fusion = "weighted",
    count: int,
    candidates: int,
    multi_vector_depth: int,
    per_parent: int | None = None,
) -> list[Ranked]:
    """The best documents of a pool, best first; equal scores (within 1e-6) by id.

    Where `per_parent` leaves fewer than `count`, more candidates are looked at, as long as one of them has a parent
    that is not full: only then are they scored by their token vectors.

    Args:
        pool: Whose signals include those that the weights need.
        families: Of the pool's documents.
        weights: How much each signal counts.
        fusion: "weighted" or "rrf".
        count: How many documents to return at most.
        candidates: How many documents each signal proposes.
        multi_vector_depth: How many of them are scored by their token vectors, if that head counts.
        per_parent: How many documents of one family to return at most; None: any number.
    """
    seen: dict[str, HeadScores] = {}
    going: dict[str, HeadScores] = {}
    best: list[Ranked] = []
    for reach in REACH if per_parent else REACH[:1]:
        limit, depth = reach * candidates, reach * multi_vector_depth
        proposed = pool.propose(limit)
        lists = [proposed.get(signal, []) for signal in proposing(weights)]
        seen |= {i: pool.scores[i] for i in union(lists) if i in pool.scores and i not in seen}
        chosen = shortlist(seen, weights, depth) if weights.multi_vector else list(seen)
        fresh = [i for i in chosen if i not in going]
        if per_parent and going and not has_room(fresh, list(going), per_parent, families):
            break
        going |= pool.late_scores(fresh) if weights.multi_vector else {i: seen[i] for i in fresh}
        fused = fuse({**seen, **going}, going, weights, fusion)
        best_ids = first_of_families(best_first(fused), count, per_parent, families)
        best = [Ranked(i, fused[i], going[i]) for i in best_ids]
        exhausted = len(chosen) == len(seen) and all(len(ids) < limit for ids in lists)
        if len(best) >= count or exhausted:
            break
    return best
