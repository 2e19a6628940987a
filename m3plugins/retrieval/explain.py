"""Why the hits are where they are: the heads' scores and ranks, and the tokens that the sparse head matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.encoding.sparse import SparseVector
from m3plugins.fusion import ranks
from m3plugins.retrieval.document import Hit
from m3plugins.retrieval.index import AnyFilter, HybridIndex


@dataclass(frozen=True)
class SharedToken:
    """A word piece of both query and document, and what it adds to the sparse score.

    Attributes:
        token: The word piece.
        query: Its weight in the query.
        document: Its weight in the document.
    """

    token: str
    query: float
    document: float

    @property
    def contribution(self) -> float:
        """The product of the weights."""
        return self.query * self.document


@dataclass(frozen=True)
class Explanation:
    """How the heads see the candidates.

    Attributes:
        union: How many documents the heads proposed together.
        ranks: By head, the rank within the union by document id; one that scores 0 on sparse has none.
        first_choices: By head, the id of its best document.
        shared_tokens: By document id, of the hits explained; what adds most comes first.
    """

    union: int
    ranks: Mapping[Head, Mapping[str, int]]
    first_choices: Mapping[Head, str]
    shared_tokens: Mapping[str, Sequence[SharedToken]]

    def overlap(self, head: Head, hits: Sequence[Hit]) -> int:
        """How many of the hits are among the head's own best, as many as there are hits."""
        return sum(self.ranks[head].get(hit.id, len(hits) + 1) <= len(hits) for hit in hits)


def explain(
    index: HybridIndex,
    query: M3Output,
    hits: Sequence[Hit],
    *,
    candidates: int,
    filter: AnyFilter | None = None,  # noqa: A002
    tokens_of: int = 10,
) -> Explanation:
    """Looks at a search again, head by head.

    Args:
        index: Where the hits were found.
        query: Embeddings of the query, all heads.
        hits: What was found.
        candidates: Documents that the dense and the sparse head propose each.
        filter: The search's.
        tokens_of: Of how many hits to name the shared tokens; their texts are encoded for it.
    """
    proposed = index.candidates(query.select(("dense", "sparse")), candidates, filter)
    scores = index.score(query, list({candidate.id for found in proposed.values() for candidate in found}))
    by_head: dict[Head, dict[str, int]] = {}
    for head in HEADS:
        column = {i: value for i, s in scores.items() if (value := getattr(s, head)) is not None}
        if head == "sparse":
            column = {i: value for i, value in column.items() if value > 0}
        by_head[head] = dict(zip(column, ranks(list(column.values())), strict=True))
    return Explanation(
        union=len(scores),
        ranks=by_head,
        first_choices={head: min(column, key=lambda i: (column[i], i)) for head, column in by_head.items() if column},
        shared_tokens=_shared_tokens(index, query, hits[:tokens_of]),
    )


def _shared_tokens(index: HybridIndex, query: M3Output, hits: Sequence[Hit]) -> dict[str, list[SharedToken]]:
    encoder = index.encoder
    texts = encoder.encode_documents([hit.document.content for hit in hits], heads=("sparse",)).sparse
    if query.sparse is None or texts is None:
        return {}
    return {hit.id: _shared(query.sparse[0], text, encoder.decode_token) for hit, text in zip(hits, texts, strict=True)}


def _shared(query: SparseVector, document: SparseVector, decode: Callable[[int], str]) -> list[SharedToken]:
    left, right = query.to_dict(), document.to_dict()
    shared = [SharedToken(decode(i), left[i], right[i]) for i in left.keys() & right.keys()]
    return sorted(shared, key=lambda token: (-token.contribution, token.token))
