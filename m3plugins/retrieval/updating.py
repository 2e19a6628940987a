"""New metadata for documents that are stored, without encoding them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from m3plugins.retrieval.document import Digest, Document
from m3plugins.retrieval.index import Ack, FailedDocument, UpsertReport
from m3plugins.retrieval.streaming import WINDOW
from m3plugins.retrieval.writing import Writer

UNKNOWN = "there is no document of this id; index it first"


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
        documents = writer.get(list(owner_of))
        before = writer.digests([document.id for document in documents])
        failed = {i: UNKNOWN for i in {*ids} - {owner_of[i] for i in before}}
        failed |= {i: fault for i in {*ids} - {*failed} if (fault := _fault(i, metadata[i], writer))}
        changed: dict[str, Document] = {}
        digests: list[Digest] = []
        for document in documents:
            owner, digest = owner_of[document.id], before.get(document.id)
            if digest is not None and owner not in failed:
                new = replace(document, metadata=metadata[owner])
                attributes = new.digest().attributes
                if attributes != digest.attributes:
                    changed[new.id] = new
                    digests.append(digest._replace(attributes=attributes))
        failed |= {owner_of[i]: reason for i, reason in writer.annotate(list(changed.values()), digests) or ()}
        written = {owner_of[i] for i in changed} - failed.keys()
        stored = [i for i in ids if i not in failed]
        report.failed += [FailedDocument(i, failed[i]) for i in ids if i in failed]
        report.written += len(written)
        report.unchanged += len(stored) - len(written)
        if on_ack and stored:
            on_ack(stored)
    return report


def _fault(id: str, metadata: Mapping[str, Any], writer: Writer) -> str | None:  # noqa: A002
    """Why an engine cannot keep these metadata."""
    try:
        writer.check(Document(id=id, text="", metadata=metadata))
    except ValueError as err:
        return str(err)
    return None
