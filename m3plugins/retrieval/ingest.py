"""The road every engine's `upsert` takes: check, skip what is unchanged, encode, write, acknowledge.

While one batch is written, in a thread, the next one is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.retrieval.document import Digest, Document
from m3plugins.retrieval.index import Ack, FailedDocument, UpsertReport
from m3plugins.retrieval.writing import Batch, Failures, Writer

WINDOW = 256
"""Documents whose digests are compared, and that are then encoded together (sorted by length)."""

WINDOW_CHARACTERS = 1 << 22
"""Characters of text after which a window ends earlier."""

Stored = Callable[[list[str], bool], None]
"""Hears of ids that are stored, and whether they were written just now."""


def ingest(
    documents: Iterable[Document],
    embeddings: Iterable[M3Output] | None,
    *,
    encoder: M3Encoder,
    writer: Writer,
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

    stream(_valid(_embedded(documents, embeddings), writer.check, encoder, report), encoder, writer, report, stored)
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
class Pending:
    """A document on its way, with the caller's embedding if there is one."""

    document: Document
    embedding: M3Output | None


def _embedded(documents: Iterable[Document], embeddings: Iterable[M3Output] | None) -> Iterator[Pending]:
    """Each document with its row of the embeddings, if these are given."""
    if embeddings is None:
        for document in documents:
            yield Pending(checked(document), None)
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


def windows(items: Iterator[Pending]) -> Iterator[list[Pending]]:
    """Runs of bounded size with distinct ids, so that of two documents with one id the later one wins."""
    window: dict[str, Pending] = {}
    characters = 0
    for item in items:
        full = len(window) == WINDOW or characters > WINDOW_CHARACTERS
        if full or item.document.id in window:
            yield list(window.values())
            window, characters = {}, 0
        window[item.document.id] = item
        characters += len(item.document.text)
    if window:
        yield list(window.values())


class _Flight:
    """One write at a time, in a thread, while the next batch is prepared.

    Args:
        pool: Of one thread.
        report: Hears of failures and of truncated texts.
        stored: Hears, in the caller's thread, of the ids that are stored.
    """

    def __init__(self, pool: ThreadPoolExecutor, report: UpsertReport, stored: Stored) -> None:
        self._pool = pool
        self._report = report
        self._stored = stored
        self._future: Future[Failures] | None = None
        self.truncated: dict[str, bool] = {}

    def start(self, write: Callable[[], Failures], truncated: dict[str, bool]) -> None:
        """Starts a write of documents, by id whether the model read them only in part, once the last one is done."""
        self.land()
        self._future, self.truncated = self._pool.submit(write), truncated

    def land(self) -> None:
        """Waits for the write, if there is one, and tells what became of it."""
        future, truncated = self._future, self.truncated
        self._future, self.truncated = None, {}
        if future is None:
            return
        failed = list(future.result() or ())
        self._report.failed += failed
        lost = {failure.id for failure in failed}
        kept = [i for i in truncated if i not in lost]
        self._report.truncated += sum(truncated[i] for i in kept)
        if kept:
            self._stored(kept, True)


def stream(
    items: Iterator[Pending],
    encoder: M3Encoder,
    writer: Writer,
    report: UpsertReport,
    stored: Stored,
) -> None:
    """Writes what is new or changed of documents that are checked; tells `stored` and the report."""
    with ThreadPoolExecutor(1, thread_name_prefix="m3-write") as pool:
        flight = _Flight(pool, report, stored)
        try:
            for window in windows(items):
                if any(item.document.id in flight.truncated for item in window):
                    flight.land()  # what is stored of it is not known before
                _send(window, encoder, writer, report, stored, flight)
        except BaseException:
            with suppress(Exception):  # what ended the run is the error to tell
                flight.land()
            raise
        flight.land()


def _send(
    window: list[Pending],
    encoder: M3Encoder,
    writer: Writer,
    report: UpsertReport,
    stored: Stored,
    flight: _Flight,
) -> None:
    digests = {item.document.id: item.document.digest(_embedding_digest(item)) for item in window}
    before = writer.digests(list(digests))
    unchanged = [i for i, digest in digests.items() if before.get(i) == digest]
    if unchanged:
        stored(unchanged, False)
    content, attributes = [], []
    for item in window:
        i = item.document.id
        if i not in before or before[i].content != digests[i].content:
            content.append(item)
        elif before[i] != digests[i]:
            attributes.append(item.document)
    if attributes:
        new = [digests[document.id] for document in attributes]
        flight.start(lambda: writer.annotate(attributes, new), {document.id: False for document in attributes})
    for batch in _batches(content, digests, encoder, report):
        truncated = dict(zip((d.id for d in batch.documents), batch.embeddings.truncated.tolist(), strict=True))
        flight.start(lambda batch=batch: writer.write(batch), truncated)  # type: ignore[misc]


def _embedding_digest(item: Pending) -> str:
    return "" if item.embedding is None else item.embedding.digest()


def _batches(
    items: list[Pending], digests: dict[str, Digest], encoder: M3Encoder, report: UpsertReport
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
