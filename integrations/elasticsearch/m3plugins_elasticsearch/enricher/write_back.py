"""Conditional writes of our fields into documents of someone else's, unless these changed since they were read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from m3plugins import Document
from m3plugins.indexing.document import Digest
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import EmbeddedBatch, Sink
from m3plugins_elasticsearch.bulk import CONFLICT, GONE, Action, Outcome, bulk, update
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.comparing import Compared
from m3plugins_elasticsearch.enricher.dead_letters import DeadLetter
from m3plugins_elasticsearch.enricher.feed import Change
from m3plugins_elasticsearch.enricher.heartbeat import Heartbeat
from m3plugins_elasticsearch.enricher.metrics import Tally
from m3plugins_elasticsearch.enricher.shards import Shard
from m3plugins_elasticsearch.enricher.watched_index import WatchedIndex
from m3plugins_elasticsearch.field_paths import OURS
from m3plugins_elasticsearch.rows import digest_fields, our_fields

_REFUSED = (400, 413)
"""Statuses of a document that Elasticsearch will not take, however often it is sent."""


class StoppedError(RuntimeError):
    """The worker is to end; what was written stays, the rest is left to others."""


@dataclass
class WriteBack(Sink):
    """Writes back the changes of one claim.

    Attributes:
        watched: The index.
        shard: The shard of the claim.
        heartbeat: The heartbeat of the worker that holds the claim.
        tally: Counts what is written.
        lag: Tells how many seconds ago a change was first seen, by its number.
        stop: Once it is set, no further batch is written.
        numbers: The sequence numbers of the writes.
        done: Ids of the documents that need nothing more.
    """

    watched: WatchedIndex
    shard: Shard
    heartbeat: Heartbeat
    tally: Tally
    lag: Callable[[int], float | None]
    stop: threading.Event
    numbers: list[int] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    _changes: dict[str, Change] = field(default_factory=dict)
    _before: dict[str, Digest] = field(default_factory=dict)

    def expect(self, compared: Compared) -> None:
        """Takes up a document that is about to be compared and written."""
        change = compared.change
        self._changes[change.id] = replace(change, source={})
        if compared.before is not None:
            self._before[change.id] = compared.before

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns what the stored vectors of these documents were made of."""
        return {i: self._before[i] for i in ids if i in self._before}

    def write(self, batch: EmbeddedBatch) -> list[FailedDocument]:
        """Writes embeddings back; returns the documents that Elasticsearch does not take."""
        codec = self.watched.index.identity.codec
        rows = enumerate(zip(batch.documents, batch.digests, strict=True))
        fields = (
            (document.id, our_fields(document, digest, batch.embeddings, codec, row))
            for row, (document, digest) in rows
        )
        return self._send("enriched", ((i, self._replacing(ours)) for i, ours in fields))

    def annotate(self, documents: Sequence[Document], digests: Sequence[Digest]) -> list[FailedDocument]:
        """Writes back the fields that documents are compared and found by."""
        pairs = zip(documents, digests, strict=True)
        fields = ((document.id, {"id": document.id, **digest_fields(document, digest)}) for document, digest in pairs)
        return self._send("annotated", fields)

    def bury(self, faults: Iterable[tuple[str, str]]) -> None:
        """Writes dead letters, given the ids of the documents and the reasons.

        What our fields say of an older text is taken out, so that nothing is found by a text that it has no more.
        """
        reasons = dict(faults)
        numbers = {i: self._changes[i].seq_no for i in reasons}
        held = [i for i in reasons if self._changes[i].held != "none"]
        for outcome in self._bulk((i, None) for i in held):
            if outcome.status in (CONFLICT, GONE):
                self.tally.add(**{"conflicts" if outcome.status == CONFLICT else "gone": 1})
                del reasons[outcome.id]
            elif outcome.status in _REFUSED:  # then it keeps them
                continue
            elif outcome.reason:
                raise _refused(outcome)
            else:
                self.numbers.append(outcome.seq_no)
                numbers[outcome.id] = outcome.seq_no
        number, history = self.shard.number, self.shard.history
        self.watched.dead_letters.write(
            DeadLetter(i, self._changes[i].routing, number, history, numbers[i], reason)
            for i, reason in reasons.items()
        )
        self.tally.add(dead=len(reasons))

    def _replacing(self, ours: dict[str, Any]) -> dict[str, Any]:
        """Shapes fields so that a partial update replaces them: an object would be merged, a list of one is not."""
        return {**ours, "sparse": [ours["sparse"]], "model": self.watched.model}

    def _send(self, kind: str, fields: Iterable[tuple[str, Any]]) -> list[FailedDocument]:
        self.heartbeat.check()
        failed = []
        for outcome in self._bulk(fields):
            if outcome.status in _REFUSED:
                failed.append(FailedDocument(outcome.id, outcome.reason))
            elif outcome.status in (CONFLICT, GONE):
                self.tally.add(**{"conflicts" if outcome.status == CONFLICT else "gone": 1})
            elif outcome.reason:
                raise _refused(outcome)
            else:
                self.numbers.append(outcome.seq_no)
                self.done.append(outcome.id)
                self.tally.add(**{kind: 1})
                self.tally.wrote(self.lag(self._changes[outcome.id].seq_no))
        if self.stop.is_set():
            raise StoppedError
        return failed

    def _bulk(self, fields: Iterable[tuple[str, Any]]) -> Iterable[Outcome]:
        """Sends conditional partial updates of our object; None takes it out."""
        watched = self.watched
        actions: Iterable[Action] = (update(i, {OURS: ours}, **self._changes[i].condition) for i, ours in fields)
        return bulk(watched.connection, watched.write_name, actions, require_alias=True)


def _refused(outcome: Outcome) -> ElasticsearchIndexError:
    return ElasticsearchIndexError(f"cannot write back {outcome.id!r}: {outcome.reason} (HTTP {outcome.status})")
