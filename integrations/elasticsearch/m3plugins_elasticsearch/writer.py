"""The `Writer` of an index of ours: whole documents, each in one write."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from m3plugins import Document
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Digest
from m3plugins.indexing.locking import TURNS, DocumentLocks, pause
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import REPLACED, EmbeddedBatch, Writer, flushed, is_current
from m3plugins_elasticsearch import lifecycle
from m3plugins_elasticsearch.bulk import CONFLICT, GONE, Action, Outcome, bulk, delete, failures, index
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.filters import Plan
from m3plugins_elasticsearch.mapping import WRITE_ALIAS
from m3plugins_elasticsearch.rows import (
    check_document,
    digest_fields,
    our_fields,
    own_fields,
    read_digest,
    stored_again,
)
from m3plugins_elasticsearch.store import EMBEDDINGS_PER_READ, LostEmbeddingsError, Row, Store

PARENTS_PER_READ = 1000
CHANGED = "somebody changed it between the read and the write"
_STORED = ("revision", "attributes", "token_count", "truncated", "dense", "sparse_weights", "token_vectors")

Change = tuple[Document, Digest, Digest | None]
"""New metadata, their digest, and the digest of the document that they are of."""


@dataclass(frozen=True)
class ElasticsearchWriter(Writer[Plan]):
    """Writes to an index of ours.

    Attributes:
        store: The documents of the index.
        refresh: Whether `flush` makes what was written visible to searches at once.
        locks: What those in this process share that replace documents of several rows.
    """

    store: Store
    refresh: bool = True
    locks: DocumentLocks = field(default_factory=DocumentLocks)

    def check(self, document: Document) -> None:
        """Refuses what Elasticsearch could not keep; see `check_document`."""
        check_document(document)

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored whole."""
        return self.store.digests(ids)

    def write(self, batch: EmbeddedBatch) -> list[FailedDocument]:
        """Stores documents."""
        return [FailedDocument(i, reason) for i, reason in failures(self._bulk(self._actions(batch))).items()]

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> list[FailedDocument]:
        """Stores new metadata and parents: each document once more, if nobody has changed it meanwhile.

        A partial update would lose the vectors, which the source does not hold. A document that somebody changed
        between the read and the write is read again: it may still be what is expected.
        """
        known: Sequence[Digest | None] = expected or [None] * len(digests)
        new = {each.id: (each, digest, one) for each, digest, one in zip(documents, digests, known, strict=True)}
        reasons = dict.fromkeys(new, REPLACED)
        left = list(new)
        for turn in range(TURNS):
            answers = self._annotate([new[i] for i in left])
            reasons |= answers
            left = [i for i, reason in answers.items() if reason == CHANGED]
            if not left:
                break
            pause(turn)
        now = self.digests([i for i, reason in reasons.items() if reason in (REPLACED, CHANGED)])
        reasons |= {i: "" for i, digest in now.items() if digest == new[i][1]}  # sent twice: an answer was lost
        return [FailedDocument(i, REPLACED if why == CHANGED else why) for i, why in reasons.items() if why]

    def _annotate(self, changes: Sequence[Change]) -> dict[str, str]:
        """Says why these could not be stored, by id: "" if they were."""
        self.show()
        reasons: dict[str, str] = {}
        new = {document.id: (document, digest, known) for document, digest, known in changes}
        stored = Plan({"ids": {"values": list(new)}})
        for hits in self.store.matching(stored, _STORED, source=True, page=EMBEDDINGS_PER_READ):
            actions: list[Action] = []
            for hit in hits:
                document, digest, known = new[hit.id]
                if not is_current(_digest(hit), digest, known):
                    continue
                try:
                    with self.store.reading(hit.id):
                        actions.append(_annotated(hit, document, digest))
                except LostEmbeddingsError as err:
                    reasons |= dict(err.failed)
            for done in self._bulk(actions):
                reasons[done.id] = CHANGED if done.status == CONFLICT else done.reason
        return reasons

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""
        return self.store.get(ids)

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each stored document that has one of these parents."""
        self.show()
        found: dict[str, str] = {}
        for group in bounded_runs(dict.fromkeys(parent_ids), lambda i: 1, PARENTS_PER_READ):
            plan = Plan({"terms": {"parent_id": list(group)}})
            for hits in self.store.matching(plan, ["parent_id"]):
                found |= {hit.id: parent for hit in hits for parent in hit.fields["parent_id"] if parent in group}
        return found

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were.

        Raises:
            ElasticsearchIndexError: If some could not be deleted.
        """
        return _count(self._deleted(delete(i) for i in ids))

    def _deleted(self, actions: Iterable[Action]) -> list[Outcome]:
        """What became of these; a document that is gone, or was changed since, is no failure.

        Raises:
            ElasticsearchIndexError: If some could not be deleted.
        """
        outcomes = list(self._bulk(actions))
        if failed := failures(outcomes, allowed=[GONE, CONFLICT]):
            reasons = "; ".join(f"{i!r}: {reason}" for i, reason in list(failed.items())[:3])
            msg = f"{len(failed)} of {len(outcomes)} documents could not be deleted ({reasons}); delete them again"
            raise ElasticsearchIndexError(msg)
        return outcomes

    def remove_matching(self, plan: Plan) -> int:
        """Deletes what matches; returns how many documents there were.

        What is replaced meanwhile is looked at again, and stays if it does not match any more.
        """
        removed = 0
        for turn in range(TURNS):
            self.show()
            conflicts = 0
            for hits in self.store.matching(plan):
                done = self._deleted(delete(h.id, if_seq_no=h.seq_no, if_primary_term=h.primary_term) for h in hits)
                removed += _count(done)
                conflicts += sum(outcome.status == CONFLICT for outcome in done)
            if not conflicts:
                break
            pause(turn)
        return removed

    def deletion(self) -> AbstractContextManager[object]:
        """Flushes at the end; each delete is of one document, as it is then."""
        return flushed(self)

    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        """Keeps this process' other threads from replacing these documents."""
        return self.locks.holding(ids)

    def flush(self) -> None:
        """Makes what was written visible to searches, if that is wanted."""
        if self.refresh:
            self.show()

    def show(self) -> None:
        """Makes what was written visible to searches."""
        self.store.show()

    def drop(self) -> None:
        """Deletes the index."""
        lifecycle.drop(self.store.connection, self.store.name)

    def _bulk(self, actions: Iterable[Action]) -> Iterator[Outcome]:
        """Writes by the alias that only this index has: were it dropped meanwhile, its name would make another."""
        return bulk(self.store.connection, WRITE_ALIAS + self.store.name, actions, require_alias=True)

    def _actions(self, batch: EmbeddedBatch) -> Iterator[Action]:
        for row, (document, digest) in enumerate(zip(batch.documents, batch.digests, strict=True)):
            ours = our_fields(document, digest, batch.embeddings, self.store.identity.codec, row)
            yield index(document.id, {**ours, **own_fields(document)})


def _count(outcomes: Iterable[Outcome]) -> int:
    """How many documents were there to be deleted."""
    return sum(outcome.status not in (GONE, CONFLICT) for outcome in outcomes)


def _digest(hit: Row) -> Digest | None:
    return read_digest({name: values[0] for name, values in hit.fields.items()})


def _annotated(hit: Row, document: Document, digest: Digest) -> Action:
    """Stores a document with its embeddings as they are."""
    fields = {"id": document.id, **stored_again(hit.fields), **digest_fields(document, digest), **own_fields(document)}
    return index(document.id, fields, if_seq_no=hit.seq_no, if_primary_term=hit.primary_term)
