"""Copies of an index into another one, with the embeddings as they are: nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Digest, Document
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.locking import TURNS, pause
from m3plugins.indexing.passages import CONTENDED
from m3plugins.indexing.report import Ack, FailedDocument, UpsertReport
from m3plugins.indexing.upsert import check_embedding
from m3plugins.indexing.verifying import check_documents
from m3plugins.indexing.writer import EmbeddedBatch

DOCUMENTS_PER_BATCH = 64
BYTES_PER_BATCH = 1 << 24
_ALIKE = 0.999
REPLACED = "it was replaced meanwhile; copy once more"
UNREAD = "it is damaged in the source; index it there again, then copy once more"

Pair = tuple[Document, M3Output]
T = TypeVar("T")


def copy(source: HybridIndex, target: HybridIndex, *, on_ack: Ack | None = None) -> UpsertReport:
    """Copies every document of an index into another one, in whatever engine; run again, it goes on.

    Documents that the target has and the source has not stay. What the codec of the source has rounded
    stays rounded. Writes to the source meanwhile may be missed, and documents that were replaced between two reads
    fail: copy once more, or pause the writers. Documents that cannot be read fail, and the others are copied.

    Of an index with passages, a document is copied as a whole, in the place of the target's own: passages that only
    the target's has are removed.

    Args:
        source: Where the documents are.
        target: Where they go.
        on_ack: Called with the ids that are stored in the target, or known to be there unchanged.

    Returns:
        What became of the documents.

    Raises:
        ModelMismatchError: If the vectors of the two are not of one model.
        ValueError: If their documents are not cut alike, at the same length and into the same passages, or those of
            the target are somebody else's to write.
    """
    target.get([])  # refuses if it is closed
    writer = target.writer  # refuses if it is only read
    target.identity.check(source.encoder, "the target")
    for index, name in ((source, "the source"), (target, "the target")):
        if index.identity.probes is None:  # an older version made it, and did not record all of its model
            check_documents(index.reader, index.encoder, name)
    for setting in ("document_max_length", "passages"):
        one, other = getattr(source.identity, setting), getattr(target.identity, setting)
        if one != other:
            msg = f"both indexes must have one {setting}, the source has {one}, the target {other}; make another target"
            raise ValueError(msg)
    report = UpsertReport()
    road = _documents if source.passages is None else _passages
    try:
        for stored in road(source, target, report):
            if on_ack and stored:
                on_ack(stored)
    finally:
        writer.flush()
    return report


def _documents(source: HybridIndex, target: HybridIndex, report: UpsertReport) -> Iterator[list[str]]:
    """Copies the documents as they come; gives the ids of what is in the target."""
    broken: dict[str, str] = {}
    for pairs in _batches(_readable(source.scan(with_embeddings=True), broken)):
        yield _copy(pairs, source, target, report)
    report.failed += [FailedDocument(i, reason) for i, reason in broken.items()]


def _passages(source: HybridIndex, target: HybridIndex, report: UpsertReport) -> Iterator[list[str]]:
    """Copies the documents one after the other, each with all of its passages."""
    broken: dict[str, str] = {}
    owners = {document.parent_id or document.id: None for document in _readable(source.scan(), broken)}
    for group in bounded_runs(owners, lambda i: 1, DOCUMENTS_PER_BATCH):
        yield _whole(group, source, target, report)
    known = {failure.reason for failure in report.failed}
    lost = [FailedDocument(i, f"passage {i}: {reason}") for i, reason in broken.items()]
    report.failed += [failure for failure in lost if failure.reason not in known]


def _whole(owners: Sequence[str], source: HybridIndex, target: HybridIndex, report: UpsertReport) -> list[str]:
    """Makes the passages of these documents in the target those of the source; returns what is stored."""
    with source.writer.holding(owners):
        owner_of = source.writer.passages_of(owners)
        wanted = source.reader.digests(list(owner_of))
    written: set[str] = set()
    failed: dict[str, str] = {}
    with target.writer.holding(owners):
        for turn in range(TURNS):
            there = target.writer.digests(list(target.writer.passages_of(owners)))
            stale = [i for i in there if i not in owner_of]
            different = [i for i in owner_of if i not in wanted or there.get(i) != wanted[i]]
            left = [i for i in different if owner_of[i] not in failed]
            if not left and not stale:
                break
            if turn > 1:
                pause(turn)
            for ids in bounded_runs(left, lambda i: 1, DOCUMENTS_PER_BATCH):
                inner = UpsertReport()
                broken: dict[str, str] = {}
                pairs = _pairs(ids, source, broken)
                gone = {*ids} - {document.id for document, _ in pairs} - broken.keys()
                written.update(_copy(pairs, source, target, inner))
                report.truncated += inner.truncated
                broken |= dict(inner.failed) | dict.fromkeys(gone, REPLACED)
                failed |= {owner_of[i]: f"passage {i}: {reason}" for i, reason in broken.items()}
            target.writer.remove(stale)
        else:
            failed |= {owner_of[i]: CONTENDED for i in left}
    stored = [i for i in wanted if owner_of[i] not in failed]
    report.failed += [FailedDocument(i, reason) for i, reason in failed.items()]
    report.written += len(written.intersection(stored))
    report.unchanged += len(stored) - len(written.intersection(stored))
    return stored


def _pairs(ids: Sequence[str], source: HybridIndex, broken: dict[str, str]) -> list[Pair]:
    """These documents with their embeddings; those that cannot be read are added to `broken`."""
    try:
        embeddings = source.embeddings(ids)
        return [(document, embeddings[document.id]) for document in source.get(ids) if document.id in embeddings]
    except BrokenDocumentsError as err:
        broken |= dict(err.failed)
        return _pairs([i for i in ids if i not in broken], source, broken)


def _readable(items: Iterable[T], broken: dict[str, str]) -> Iterator[T]:
    """What a scan gives; what cannot be read is added to `broken` at the end."""
    try:
        yield from items
    except BrokenDocumentsError as err:
        broken |= dict(err.failed)


def _copy(pairs: list[Pair], source: HybridIndex, target: HybridIndex, report: UpsertReport) -> list[str]:
    """Stores what is new or changed; returns the ids of what is now there."""
    ids = [document.id for document, _ in pairs]
    digests, before = source.reader.digests(ids), target.writer.digests(ids)
    known = {i for i in ids if i in before and before[i] == digests.get(i)}
    new = [(document, embedding) for document, embedding in pairs if document.id in digests.keys() - known]
    failed = dict.fromkeys(_replaced(new, digests, source), REPLACED)
    if unknown := [i for i in ids if i not in digests]:  # deleted meanwhile, or damaged
        still = _pairs(unknown, source, failed)
        failed |= {document.id: UNREAD for document, _ in still}
    batch: list[Pair] = []
    for document, embedding in new:
        if document.id not in failed:
            try:
                target.writer.check(document)
                check_embedding(embedding, target.encoder)
                batch.append((document, embedding))
            except ValueError as err:
                failed[document.id] = str(err)
    if batch:
        documents = [document for document, _ in batch]
        embeddings = M3Output.concatenate([embedding for _, embedding in batch])
        stored = EmbeddedBatch(documents, [digests[document.id] for document in documents], embeddings)
        failed |= dict(target.writer.write(stored) or ())
    written = [document.id for document, _ in batch if document.id not in failed]
    truncated = {document.id: bool(embedding.truncated[0]) for document, embedding in batch}
    report.written += len(written)
    report.unchanged += len(known)
    report.truncated += sum(truncated[i] for i in written)
    report.failed += [FailedDocument(i, reason) for i, reason in failed.items()]
    return [*known, *written]


def _replaced(pairs: list[Pair], digests: Mapping[str, Digest], source: HybridIndex) -> set[str]:
    """Ids of documents that are not, or no more, what their digests are of: all is read once more, later than these.

    A digest that the document alone does not explain is also that of the caller's own embeddings.
    """
    now = {i: one.dense for i, one in source.embeddings([document.id for document, _ in pairs], ["dense"]).items()}
    changed = {d.id for d, one in pairs if (dense := now.get(d.id)) is None or not _alike(dense, one.dense)}
    odd = {document.id: document for document, _ in pairs if document.digest() != digests[document.id]}
    stored = {document.id: document for document in source.reader.get(list(odd))} if odd else {}
    return changed | {i for i, document in odd.items() if stored.get(i) != document}


def _alike(one: NDArray[np.float32], other: NDArray[np.float32] | None) -> bool:
    """Whether two dense vectors are one, read twice: what is computed anew differs by its batch's rounding."""
    return other is not None and float(one[0] @ other[0]) >= _ALIKE * float(one[0] @ one[0])


def _batches(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    size = 0
    for document, embedding in pairs:
        batch.append((document, embedding))
        size += len(document.text) + embedding.nbytes
        if len(batch) == DOCUMENTS_PER_BATCH or size > BYTES_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
