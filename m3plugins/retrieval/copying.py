"""From one index into another, with the embeddings as they are: nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.output import M3Output
from m3plugins.retrieval.document import Digest, Document
from m3plugins.retrieval.index import Ack, FailedDocument, HybridIndex, UpsertReport
from m3plugins.retrieval.ingest import check_embedding
from m3plugins.retrieval.verifying import check_documents
from m3plugins.retrieval.writing import Batch

DOCUMENTS_PER_BATCH = 64
BYTES_PER_BATCH = 1 << 24
_ALIKE = 0.999
REPLACED = "it was replaced meanwhile; copy once more"


def copy(source: HybridIndex, target: HybridIndex, *, on_ack: Ack | None = None) -> UpsertReport:
    """Copies every document of an index into another one, in whatever engine; run again, it goes on.

    Documents that the target has and the source has not stay. What the codec of the source has rounded
    stays rounded. Writes to the source meanwhile may be missed, and documents that were replaced between two reads
    fail: copy once more, or pause the writers.

    Args:
        source: Where the documents are.
        target: Where they go.
        on_ack: Called with the ids that are stored in the target, or known to be there unchanged.

    Returns:
        What became of the documents.

    Raises:
        ModelMismatchError: If the vectors of the two are not of one model.
        ValueError: If their documents are not cut alike, at the same length and into the same passages.
    """
    target.get([])  # refuses if it is closed
    target.identity.check(source.encoder, "the target")
    for index, name in ((source, "the source"), (target, "the target")):
        if index.identity.probes is None:  # an older version made it, and did not record all of its model
            check_documents(index, name)
    for setting in ("document_max_length", "passages"):
        one, other = getattr(source.identity, setting), getattr(target.identity, setting)
        if one != other:
            msg = f"both indexes must have one {setting}, the source has {one}, the target {other}; make another target"
            raise ValueError(msg)
    report = UpsertReport()
    try:
        for pairs in _batches(source.scan(with_embeddings=True)):
            stored = _copy(pairs, source, target, report)
            if on_ack and stored:
                on_ack(stored)
    finally:
        target.writer.flush()
    return report


def _copy(
    pairs: list[tuple[Document, M3Output]], source: HybridIndex, target: HybridIndex, report: UpsertReport
) -> list[str]:
    """Stores what is new or changed; returns the ids of what is now there."""
    ids = [document.id for document, _ in pairs]
    digests, before = source.writer.digests(ids), target.writer.digests(ids)
    known = {i for i in ids if i in before and before[i] == digests.get(i)}
    new = [(document, embedding) for document, embedding in pairs if document.id in digests.keys() - known]
    failed = dict.fromkeys(_replaced(new, digests, source), REPLACED)
    batch: list[tuple[Document, M3Output]] = []
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
        stored = Batch(documents, [digests[document.id] for document in documents], embeddings)
        failed |= dict(target.writer.write(stored) or ())
    written = [document.id for document, _ in batch if document.id not in failed]
    truncated = {document.id: bool(embedding.truncated[0]) for document, embedding in batch}
    report.written += len(written)
    report.unchanged += len(known)
    report.truncated += sum(truncated[i] for i in written)
    report.failed += [FailedDocument(i, reason) for i, reason in failed.items()]
    return [*known, *written]


def _replaced(pairs: list[tuple[Document, M3Output]], digests: Mapping[str, Digest], source: HybridIndex) -> set[str]:
    """Ids of documents that are not, or no more, what their digests are of: all is read once more, later than these.

    A digest that the document alone does not explain is also that of the caller's own embeddings.
    """
    now = {i: one.dense for i, one in source.embeddings([document.id for document, _ in pairs], ["dense"]).items()}
    changed = {d.id for d, one in pairs if (dense := now.get(d.id)) is None or not _alike(dense, one.dense)}
    odd = {document.id: document for document, _ in pairs if document.digest() != digests[document.id]}
    stored = {document.id: document for document in source.writer.get(list(odd))} if odd else {}
    return changed | {i for i, document in odd.items() if stored.get(i) != document}


def _alike(one: NDArray[np.float32], other: NDArray[np.float32] | None) -> bool:
    """Whether two dense vectors are one, read twice: what is computed anew differs by its batch's rounding."""
    return other is not None and float(one[0] @ other[0]) >= _ALIKE * float(one[0] @ one[0])


def _batches(pairs: Iterator[tuple[Document, M3Output]]) -> Iterator[list[tuple[Document, M3Output]]]:
    batch: list[tuple[Document, M3Output]] = []
    size = 0
    for document, embedding in pairs:
        batch.append((document, embedding))
        size += len(document.text) + embedding.nbytes
        if len(batch) == DOCUMENTS_PER_BATCH or size > BYTES_PER_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
