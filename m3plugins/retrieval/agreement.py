"""How far the heads agree on what a search found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.fusion import ranks
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.index import HybridIndex
from m3plugins.retrieval.hit import Hit
from m3plugins.retrieval.pool import Pool
from m3plugins.retrieval.ranking import listed


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
    filter: AnyFilter | None = None,
) -> Agreement:
    """Looks at a search again, head by head.

    Args:
        index: Where to search.
        query: Embeddings of the query, all heads.
        candidates: Documents that the dense and the sparse head propose each.
        filter: The search's.
    """
    pool = Pool(index, query, ("dense", "sparse"), filter=filter)
    pool.propose(candidates)
    scores = pool.late_scores(pool.scores)
    columns = {head: listed(scores, head) for head in HEADS}
    by_head = {head: dict(zip(column, ranks(list(column.values())), strict=True)) for head, column in columns.items()}
    return Agreement(
        union=len(scores),
        ranks=by_head,
        first_choices={head: min(column, key=lambda i: (column[i], i)) for head, column in by_head.items() if column},
    )
