"""New metadata for documents that are stored, without encoding them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from m3plugins.retrieval.document import Digest, Document
from m3plugins.retrieval.index import Ack, FailedDocument, UpsertReport
from m3plugins.retrieval.ingest import WINDOW
from m3plugins.retrieval.writing import Writer


def update_metadata(
    metadata: Mapping[str, Mapping[str, Any]], *, writer: Writer, passages: bool = False, on_ack: Ack | None = None
) -> UpsertReport:
    """Replaces the metadata of stored documents.

    Args:
        metadata: By document id; by parent's id where the index has passages.
        writer: The engine.
        passages: Whether the index has passages.
        on_ack: Called with the ids whose metadata are stored.
    """
    report = UpsertReport()
    left = iter(metadata)
    while ids := list(islice(left, WINDOW)):
        owner_of = writer.passages_of(ids) if passages else {i: i for i in ids}
        failed: dict[str, str] = {}
        changed: dict[str, Document] = {}
        before = writer.digests(list(owner_of))
        digests: dict[str, Digest] = {}
        for document in writer.get(list(owner_of)):
            owner = owner_of[document.id]
            new = replace(document, metadata=metadata[owner])
            try:
                writer.check(new)
            except ValueError as err:
                failed[owner] = str(err)
                continue
            digest = before[document.id]._replace(attributes=new.digest().attributes)
            if digest != before[document.id]:
                changed[new.id], digests[new.id] = new, digest
        known = {owner_of[i] for i in before}
        failed |= {i: "there is no document of this id; index it first" for i in ids if i not in known}
        doomed = [i for i in changed if owner_of[i] in failed]
        for i in doomed:
            del changed[i], digests[i]
        for failure in writer.annotate(list(changed.values()), list(digests.values())) or ():
            failed[owner_of[failure.id]] = failure.reason
        report.failed += [FailedDocument(i, reason) for i, reason in failed.items()]
        kept = [i for i in ids if i not in failed]
        written = {owner_of[i] for i in changed} - failed.keys()
        report.written += len(written)
        report.unchanged += len(kept) - len(written)
        if on_ack and kept:
            on_ack(kept)
    return report
