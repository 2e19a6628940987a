"""What an explanation says follows from the index's own scores."""

from __future__ import annotations

import pytest

from m3plugins import Document, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.output import HEADS
from m3plugins.retrieval.document import Hit
from m3plugins.retrieval.explain import Explanation, explain
from m3plugins.scoring import HeadScores
from tests.tiny import SENTENCES

QUERY = "the quick brown fox and the lazy dog"


@pytest.fixture(scope="module")
def index(encoder: M3Encoder) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(Document(id=f"d{i}", text=text) for i, text in enumerate(SENTENCES))
    return index


@pytest.fixture(scope="module")
def hits(index: InMemoryHybridIndex) -> list[Hit]:
    return HybridRetriever(index).search(QUERY, k=5)


@pytest.fixture(scope="module")
def explanation(index: InMemoryHybridIndex, hits: list[Hit]) -> Explanation:
    return explain(index, index.encoder.encode_queries([QUERY]), hits, candidates=100, tokens_of=3)


def test_ranks_are_positions_by_the_exact_score_of_each_head(
    index: InMemoryHybridIndex, explanation: Explanation
) -> None:
    scores = index.score(index.encoder.encode_queries([QUERY]), [f"d{i}" for i in range(len(SENTENCES))])
    assert explanation.union == len(SENTENCES)
    for head in HEADS:
        column = {i: getattr(found, head) for i, found in scores.items() if head != "sparse" or found.sparse}
        assert explanation.ranks[head] == {
            i: 1 + sum(other > s for other in column.values()) for i, s in column.items()
        }
        assert column[explanation.first_choices[head]] == max(column.values())


def test_shared_tokens_add_up_to_the_sparse_score(explanation: Explanation, hits: list[Hit]) -> None:
    assert list(explanation.shared_tokens) == [hit.id for hit in hits[:3]]
    for hit in hits[:3]:
        contributions = [token.contribution for token in explanation.shared_tokens[hit.id]]
        assert contributions == sorted(contributions, reverse=True)
        assert sum(contributions) == pytest.approx(hit.scores.sparse, abs=1e-5)


def test_overlap_counts_the_hits_that_a_head_would_have_shown_too() -> None:
    ranks = {head: {"a": 1, "b": 3} for head in HEADS}
    explanation = Explanation(union=3, ranks=ranks, first_choices={}, shared_tokens={})
    hits = [Hit(document=Document(id=i, text=""), score=0.0, scores=HeadScores()) for i in ("a", "b")]
    assert explanation.overlap("dense", hits) == 1
