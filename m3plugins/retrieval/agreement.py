"""How far the heads agree on what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.fusion import ranks
from m3plugins.retrieval.document import Hit
from m3plugins.retrieval.index import AnyFilter, HybridIndex


@dataclass(frozen=True)
class Agreement:
    """How the heads see the candidates.

    Attributes:
        union: How many documents the heads proposed together.
        ranks: By head, the rank within the union by document id; one that scores 0 on sparse has none.
        first_choices: By head, the id of its best document.
    """

    union: int
    ranks: Mapping[Head, Mapping[str, int]]
    first_choices: Mapping[Head, str]

    def overlap(self, head: Head, hits: Sequence[Hit]) -> int:
        """How many of the hits are among the head's own best, as many as there are hits."""
        return sum(self.ranks[head].get(hit.id, len(hits) + 1) <= len(hits) for hit in hits)


def agreement(
    index: HybridIndex,
    query: M3Output,
    *,
    candidates: int,
    filter: AnyFilter | None = None,  # noqa: A002
) -> Agreement:
    """Looks at a search again, head by head.

    Args:
        index: Where to search.
        query: Embeddings of the query, all heads.
        candidates: Documents that the dense and the sparse head propose each.
        filter: The search's.
    """
    proposed = index.candidates(query.select(("dense", "sparse")), candidates, filter)
    scores = index.score(query, list({candidate.id for found in proposed.values() for candidate in found}))
    by_head: dict[Head, dict[str, int]] = {}
    for head in HEADS:
        column = {i: value for i, s in scores.items() if (value := getattr(s, head)) is not None}
        if head == "sparse":
            column = {i: value for i, value in column.items() if value > 0}
        by_head[head] = dict(zip(column, ranks(list(column.values())), strict=True))
    return Agreement(
        union=len(scores),
        ranks=by_head,
        first_choices={head: min(column, key=lambda i: (column[i], i)) for head, column in by_head.items() if column},
    )
