"""A full comparison of every document's text and metadata with what is stored of them. Nothing is encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from m3plugins_elasticsearch.enricher.comparing import State, compare
from m3plugins_elasticsearch.enricher.metrics import VerifyReport
from m3plugins_elasticsearch.enricher.shards import Shard
from m3plugins_elasticsearch.enricher.watched_index import WatchedIndex

_EXAMPLES = 10


def verify(watched: WatchedIndex, shards: Mapping[int, Shard], progressed: Callable[[int], None]) -> VerifyReport:
    """Compares all documents, as they are now.

    Args:
        watched: The index.
        shards: All its shards, by number.
        progressed: Called with a number of documents, after each page.
    """
    watched.feed.refresh()
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for shard in shards.values():
        for page in watched.feed.changes(shard.number, -1, shard.checkpoint):
            found = [compare(change, watched.store.paths, watched.models) for change in page]
            behind = [one.change.id for one in found if one.state not in ("enriched", "dead")]
            letters = watched.dead_letters.known(shard, behind)
            dead = {(i, stored.letter.seq_no) for i, stored in letters.items()}
            for one in found:
                state: State = "dead" if (one.change.id, one.change.seq_no) in dead else one.state
                counts[state] += 1
                if state != "enriched" and len(some := examples.setdefault(state, [])) < _EXAMPLES:
                    some.append(one.change.id)
            progressed(len(page))
    return VerifyReport(**counts, examples=examples)
