"""New metadata for documents that are stored, without encoding them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

from m3plugins.indexing.document import Digest, Document, copied
from m3plugins.indexing.locking import TURNS, pause
from m3plugins.indexing.report import Ack, FailedDocument, UpsertReport
from m3plugins.indexing.streaming import WINDOW
from m3plugins.indexing.writer import REPLACED, Writer

UNKNOWN = "there is no document of this id; index it first"
BUSY = (
    "it is replaced faster than its metadata can be stored, call update_metadata again; or a passage of it is damaged, "
    "index it again"
)


def update_metadata(
    metadata: Mapping[str, Mapping[str, Any]], *, writer: Writer[Any], passages: bool = False, on_ack: Ack | None = None
) -> UpsertReport:
    """Replaces the metadata of stored documents, and nothing else of them.

    A document that is replaced between the read and the write is read again, so that neither change is lost.

    Args:
        metadata: By document id; by parent's id where the index has passages.
        writer: The engine.
        passages: Whether the index has passages.
        on_ack: Called with the ids whose metadata are stored.
    """
    report = UpsertReport()
    left = iter(metadata)
    while ids := list(islice(left, WINDOW)):
        update = _Update(writer, passages)
        valid: dict[str, Mapping[str, Any]] = {}
        for i in ids:
            if fault := _fault(i, metadata[i], writer):
                update.failed[i] = fault
            else:
                valid[i] = copied(metadata[i])
        with writer.holding(ids) if passages else nullcontext():
            update.run(valid)
        stored = [i for i in ids if i not in update.failed]
        report.failed += [FailedDocument(i, update.failed[i]) for i in ids if i in update.failed]
        report.written += len(update.written)
        report.unchanged += len(stored) - len(update.written)
        if on_ack and stored:
            on_ack(stored)
    return report


class _Update:
    """What becomes of the documents of one window.

    Attributes:
        written: Those whose metadata were changed.
        failed: The reasons, by id.
    """

    def __init__(self, writer: Writer[Any], passages: bool) -> None:
        self._writer = writer
        self._passages = passages
        self.written: set[str] = set()
        self.failed: dict[str, str] = {}

    def run(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Reads, compares and writes, until there is nothing left to write."""
        for turn in range(TURNS):
            refused, changed = self._turn(metadata)
            # Passages are looked at once more: another process may have replaced some since they were listed.
            again = changed if self._passages else refused
            metadata = {i: metadata[i] for i in again - self.failed.keys()}
            if not metadata:
                return
            if refused:
                pause(turn)
        self.written -= metadata.keys()
        self.failed |= dict.fromkeys(metadata, BUSY)

    def _turn(self, metadata: Mapping[str, Mapping[str, Any]]) -> tuple[set[str], set[str]]:
        """The ids of the documents that were replaced meanwhile, and of all that had to be changed."""
        owner_of = self._writer.passages_of(list(metadata)) if self._passages else {i: i for i in metadata}
        before = self._writer.digests(list(owner_of))  # ahead of the documents: a later one does not pass for these
        documents = self._writer.get(list(before))
        unknown = metadata.keys() - {owner_of[document.id] for document in documents} - self.written
        self.failed |= dict.fromkeys(unknown, UNKNOWN)
        new: list[Document] = []
        digests: list[Digest] = []
        for document in documents:
            one = replace(document, metadata=metadata[owner_of[document.id]])
            digest = before[one.id]._replace(attributes=one.digest().attributes)
            if digest != before[one.id]:
                new.append(one)
                digests.append(digest)
        damaged = {owner for i, owner in owner_of.items() if i not in before}
        reasons = dict(self._writer.annotate(new, digests, [before[one.id] for one in new]) or ()) if new else {}
        refused = {owner_of[i] for i, reason in reasons.items() if reason == REPLACED}
        self.failed |= {owner_of[i]: reason for i, reason in reasons.items() if reason != REPLACED}
        refused |= damaged - self.failed.keys()
        changed = {owner_of[one.id] for one in new}
        self.written = (self.written | changed - refused) - self.failed.keys()
        return refused, changed


def _fault(id: str, metadata: Mapping[str, Any], writer: Writer[Any]) -> str | None:
    """Says why an engine cannot keep these metadata; None if it can."""
    try:
        writer.check(Document(id=id, text="", metadata=metadata))
    except ValueError as err:
        return str(err)
    return None
