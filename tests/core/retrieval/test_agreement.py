"""What is said of the heads follows from the index's own scores."""

from __future__ import annotations

from m3plugins import Document, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.output import HEADS
from m3plugins.retrieval import Hit, filters
from m3plugins.retrieval.agreement import Agreement, agreement
from m3plugins.scoring import HeadScores
from tests.tiny import SENTENCES

QUERY = "the quick brown fox and the lazy dog"


def test_ranks_are_positions_by_the_exact_score_of_each_head(encoder: M3Encoder) -> None:
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(Document(id=f"d{i}", text=text, metadata={"n": i}) for i, text in enumerate(SENTENCES))
    query = encoder.encode_queries([QUERY])
    for wanted, size in ((None, len(SENTENCES)), (filters.lt("n", 5), 5)):
        found = agreement(index, query, candidates=100, filter=wanted)
        scores = index.score(query, [f"d{i}" for i in range(size)])
        assert found.union == size
        for head in HEADS:
            column = {i: getattr(s, head) for i, s in scores.items() if head != "sparse" or s.sparse}
            assert found.ranks[head] == {i: 1 + sum(other > s for other in column.values()) for i, s in column.items()}
            assert column[found.first_choices[head]] == max(column.values())


def test_overlap_counts_the_hits_that_a_head_would_have_shown_too() -> None:
    found = Agreement(union=3, ranks={head: {"a": 1, "b": 3} for head in HEADS}, first_choices={})
    hits = [Hit(document=Document(id=i, text=""), score=0.0, scores=HeadScores()) for i in ("a", "b")]
    assert found.overlap("dense", hits) == 1
