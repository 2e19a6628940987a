"""The road every engine's `upsert` takes: check, skip what is unchanged, encode, write, acknowledge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.retrieval.document import Document
from m3plugins.retrieval.index import Ack, FailedDocument, UpsertReport

WINDOW = 256
"""Documents whose digests are compared, and that are then encoded together (sorted by length)."""


@dataclass(frozen=True)
class Batch:
    """Documents to write, in columns.

    Attributes:
        documents: Checked, of distinct ids.
        digests: `Document.digest()` of each, to be stored beside it.
        embeddings: Their embeddings, all heads.
    """

    documents: list[Document]
    digests: list[str]
    embeddings: M3Output


def ingest(
    documents: Iterable[Document],
    embeddings: Iterable[M3Output] | None,
    *,
    encoder: M3Encoder,
    stored_digests: Callable[[Sequence[str]], dict[str, str]],
    write: Callable[[Batch], Iterable[FailedDocument] | None],
    on_ack: Ack | None = None,
    check: Callable[[Document], None] = Document.check,
) -> UpsertReport:
    """Streams documents into an engine, in bounded memory.

    Args:
        documents: Any iterable.
        embeddings: The documents' embeddings in the same order, or None to encode them here.
        encoder: Encodes where no embeddings are given.
        stored_digests: The digests of those of the given ids that the engine holds.
        write: Stores a batch; returns the documents it could not store, if any. An exception that it
            raises ends the run: what was acknowledged is stored, the rest is not promised.
        on_ack: Called with the ids that are stored or known to be unchanged.
        check: Raises ValueError for a document that the engine cannot keep.

    Returns:
        What became of the documents.

    Raises:
        ValueError: If there are fewer or more embeddings than documents.
        TypeError: If an item is no `Document`.
    """
    report = UpsertReport()
    acknowledge = on_ack or (lambda ids: None)
    for window in _windows(_valid(_embedded(documents, embeddings), check, encoder, report)):
        digests = {item.document.id: _digest(item) for item in window}
        stored = stored_digests(list(digests))
        unchanged = [i for i, digest in digests.items() if stored.get(i) == digest]
        report.unchanged += len(unchanged)
        if unchanged:
            acknowledge(unchanged)
        changed = [item for item in window if stored.get(item.document.id) != digests[item.document.id]]
        for batch in _batches(changed, digests, encoder, report):
            failed = list(write(batch) or ())
            report.failed += failed
            lost = {failure.id for failure in failed}
            kept = [row for row, document in enumerate(batch.documents) if document.id not in lost]
            report.written += len(kept)
            report.truncated += int(batch.embeddings.truncated[kept].sum())
            if kept:
                acknowledge([batch.documents[row].id for row in kept])
    return report


def check_embedding(embedding: M3Output, encoder: M3Encoder) -> None:
    """Refuses embeddings that are not of the encoder's shape.

    Raises:
        ValueError: If so.
    """
    if embedding.dense is None or embedding.sparse is None or embedding.multi_vector is None:
        msg = f"embeddings must have all three heads to be stored, got {', '.join(embedding.heads)}"
        raise ValueError(msg)
    widths = (embedding.dense.shape[1], embedding.sparse.vocab_size, embedding.multi_vector.dim)
    expected = (encoder.dim, encoder.vocab_size, encoder.multi_vector_dim)
    if widths != expected:
        msg = f"embeddings must be as wide as the encoder's (dense, sparse, multi-vector) {expected}, got {widths}"
        raise ValueError(msg)
    if not len(embedding.multi_vector.vectors):
        msg = "the multi_vector embedding must hold at least one token vector, got none"
        raise ValueError(msg)


def _finite(output: M3Output) -> bool:
    arrays = [output.dense]
    arrays += [output.sparse.values] if output.sparse is not None else []
    arrays += [output.multi_vector.vectors] if output.multi_vector is not None else []
    return all(np.isfinite(array).all() for array in arrays if array is not None)


@dataclass(frozen=True)
class _Pending:
    document: Document
    embedding: M3Output | None


def _embedded(documents: Iterable[Document], embeddings: Iterable[M3Output] | None) -> Iterator[_Pending]:
    """Each document with its row of the embeddings, if these are given."""
    if embeddings is None:
        for document in documents:
            yield _Pending(_checked(document), None)
        return
    outputs = [embeddings] if isinstance(embeddings, M3Output) else embeddings
    rows = (row for output in outputs for row in output)
    for document, row in zip_longest(documents, rows):
        if document is None or row is None:
            short = "documents" if document is None else "embeddings"
            msg = f"there must be as many embeddings as documents, the {short} ran out first"
            raise ValueError(msg)
        yield _Pending(_checked(document), row)


def _checked(document: object) -> Document:
    if not isinstance(document, Document):
        msg = f"documents must be m3plugins.Document, got {type(document).__name__}"
        raise TypeError(msg)
    return document


def _valid(
    items: Iterator[_Pending], check: Callable[[Document], None], encoder: M3Encoder, report: UpsertReport
) -> Iterator[_Pending]:
    """The items that can be stored; the others go into the report."""
    for item in items:
        try:
            check(item.document)
            if item.embedding is not None:
                check_embedding(item.embedding, encoder)
        except ValueError as err:
            report.failed.append(FailedDocument(str(item.document.id), str(err)))
        else:
            yield item


def _windows(items: Iterator[_Pending]) -> Iterator[list[_Pending]]:
    """Runs of at most WINDOW documents of distinct ids, so that of two with one id the later one wins."""
    window: dict[str, _Pending] = {}
    for item in items:
        if len(window) == WINDOW or item.document.id in window:
            yield list(window.values())
            window = {}
        window[item.document.id] = item
    if window:
        yield list(window.values())


def _digest(item: _Pending) -> str:
    """The document's digest; with embeddings of the caller's, theirs too."""
    digest = item.document.digest()
    if item.embedding is None:
        return digest
    return hashlib.blake2b(digest.encode() + item.embedding.digest().encode(), digest_size=16).hexdigest()


def _batches(
    items: list[_Pending], digests: dict[str, str], encoder: M3Encoder, report: UpsertReport
) -> Iterator[Batch]:
    """The items with their embeddings, as many at a time as the encoder hands out."""
    if not items:
        return
    if items[0].embedding is None:
        outputs: Iterable[M3Output] = encoder.iter_documents(item.document.content for item in items)
    else:
        outputs = [M3Output.concatenate([item.embedding for item in items if item.embedding is not None])]
    position = 0
    for output in outputs:
        documents = [item.document for item in items[position : position + len(output)]]
        position += len(output)
        if not _finite(output):  # the caller's, or those of a diverged model
            good = [row for row in range(len(output)) if _finite(output[row])]
            bad = [document.id for row, document in enumerate(documents) if row not in good]
            report.failed += [FailedDocument(i, "embeddings must be finite, got NaN or infinity") for i in bad]
            documents, output = [documents[row] for row in good], output.take(good)
        if documents:
            yield Batch(documents, [digests[document.id] for document in documents], output)
