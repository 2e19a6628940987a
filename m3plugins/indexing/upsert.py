"""Upsert: check, skip what is unchanged, encode, write, acknowledge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from m3plugins.encoding.assembling import UNIT_ERROR
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Document, detached
from m3plugins.indexing.report import Ack, FailedDocument, UpsertReport
from m3plugins.indexing.streaming import Pending, Stream
from m3plugins.indexing.writer import Writer


def ingest(
    documents: Iterable[Document],
    embeddings: Iterable[M3Output] | None,
    *,
    encoder: M3Encoder,
    writer: Writer[Any],
    on_ack: Ack | None = None,
) -> UpsertReport:
    """Streams documents into an engine, in bounded memory.

    Args:
        documents: Any iterable.
        embeddings: The documents' embeddings in the same order, or None to encode them here.
        encoder: Encodes where no embeddings are given.
        writer: The engine.
        on_ack: Called, in this thread, with the ids that are stored or known to be unchanged.

    Returns:
        What became of the documents.

    Raises:
        ValueError: If there are fewer or more embeddings than documents.
        TypeError: If an item is no `Document`.
    """
    report = UpsertReport()

    def stored(ids: list[str], changed: bool) -> None:
        report.written += len(ids) if changed else 0
        report.unchanged += 0 if changed else len(ids)
        if on_ack:
            on_ack(ids)

    items = _valid(_embedded(documents, embeddings), writer.check, encoder, report)
    Stream(encoder, writer, report, stored).run(items)
    return report


def check_embedding(embedding: M3Output, encoder: M3Encoder) -> None:
    """Refuses embeddings that are not of the encoder's shape, or whose dense vector is not of unit length.

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
    length = float(np.linalg.norm(embedding.dense.astype(np.float64)))
    if UNIT_ERROR < abs(length * length - 1) < np.inf:
        msg = f"dense embeddings must be of unit length, got {length:.4g}; normalise them"
        raise ValueError(msg)


def _embedded(documents: Iterable[Document], embeddings: Iterable[M3Output] | None) -> Iterator[Pending]:
    """Each document with its row of the embeddings, if these are given."""
    if embeddings is None:
        for document in documents:
            yield Pending(checked(document))
        return
    outputs = [embeddings] if isinstance(embeddings, M3Output) else embeddings
    rows = (row for output in outputs for row in output)
    for document, row in zip_longest(documents, rows):
        if document is None or row is None:
            short = "documents" if document is None else "embeddings"
            msg = f"there must be as many embeddings as documents, the {short} ran out first"
            raise ValueError(msg)
        yield Pending(checked(document), row)


def checked(document: object) -> Document:
    """The document.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(document, Document):
        msg = f"documents must be m3plugins.Document, got {type(document).__name__}"
        raise TypeError(msg)
    return document


def _valid(
    items: Iterator[Pending], check: Callable[[Document], None], encoder: M3Encoder, report: UpsertReport
) -> Iterator[Pending]:
    """The items that can be stored; the others go into the report.

    Metadata are copied: these are read ahead, and whoever makes them may use one mapping for all.
    """
    for item in items:
        try:
            check(item.document)
            if item.embedding is not None:
                check_embedding(item.embedding, encoder)
        except ValueError as err:
            report.failed.append(FailedDocument(str(item.document.id), str(err)))
        else:
            yield Pending(detached(item.document), item.embedding)
