"""A stream of checked documents into an engine: skip what is unchanged, encode, write.

While one batch is written, in a thread, the next one is encoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Digest, Document
from m3plugins.indexing.report import FailedDocument, UpsertReport
from m3plugins.indexing.writer import EmbeddedBatch, Failures, Sink

WINDOW = 256
"""Documents whose digests are compared, and that are then encoded together (sorted by length)."""

WINDOW_BYTES = 1 << 26
"""Size of texts and embeddings after which a window ends earlier."""

_PAUSE_S = 1.0

Stored = Callable[[list[str], bool], None]
"""Hears of ids that are stored, and whether they were written just now."""


@dataclass(frozen=True)
class Pending:
    """A document on its way, with the caller's embedding if there is one."""

    document: Document
    embedding: M3Output | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        vectors = None if self.embedding is None else self.embedding.multi_vector
        return len(self.document.text) + (0 if vectors is None else vectors.vectors.nbytes)

    def digest(self) -> Digest:
        """The document's, with the embedding's in it."""
        return self.document.digest("" if self.embedding is None else self.embedding.digest())


def windows(items: Iterable[Pending]) -> Iterator[list[Pending]]:
    """Runs of bounded size with distinct ids, so that of two documents with one id the later one wins."""
    window: dict[str, Pending] = {}
    size = 0
    for item in items:
        if len(window) == WINDOW or size > WINDOW_BYTES or item.document.id in window:
            yield list(window.values())
            window, size = {}, 0
        window[item.document.id] = item
        size += item.size
    if window:
        yield list(window.values())


class Stream:
    """Writes what is new or changed.

    Args:
        encoder: Encodes where no embeddings are given.
        sink: Takes them.
        report: Hears of failures and of truncated texts.
        stored: Hears, in the caller's thread, of what is stored.
    """

    def __init__(self, encoder: M3Encoder, sink: Sink, report: UpsertReport, stored: Stored) -> None:
        self._encoder = encoder
        self._sink = sink
        self._report = report
        self._stored = stored
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="m3-write")
        self._write: Future[Failures] | None = None
        self._truncated: dict[str, bool] = {}  # by id, of the documents that are being written

    def run(self, items: Iterable[Pending]) -> None:
        """Stores documents that are checked."""
        with self._pool:
            try:
                for window in windows(items):
                    self._send(window)
            except BaseException:
                with suppress(Exception):  # what ended the run is the error to tell
                    self._finish()
                raise
            self._finish()

    def _send(self, window: list[Pending]) -> None:
        digests = {item.document.id: item.digest() for item in window}
        if digests.keys() & self._truncated.keys():
            self._finish()  # what is stored of these is not known before
        # In a thread as well: Ctrl-C inside a gRPC call of the main thread leaves the other calls hanging.
        before = self._pool.submit(self._sink.digests, list(digests)).result()
        if unchanged := [i for i, digest in digests.items() if before.get(i) == digest]:
            self._stored(unchanged, False)
        changed = [item for item in window if before.get(item.document.id) != digests[item.document.id]]
        known = {i for i, digest in before.items() if digest.content == digests[i].content}
        if annotated := [item.document for item in changed if item.document.id in known]:
            new = [digests[document.id] for document in annotated]
            write = partial(self._sink.annotate, annotated, new)
            self._start(write, {document.id: False for document in annotated})
        for batch in self._batches([item for item in changed if item.document.id not in known], digests):
            ids = [document.id for document in batch.documents]
            write = partial(self._sink.write, batch)
            self._start(write, dict(zip(ids, batch.embeddings.truncated.tolist(), strict=True)))

    def _start(self, write: Callable[[], Failures], truncated: dict[str, bool]) -> None:
        """Writes in the thread, once the last write is done."""
        self._finish()
        self._write, self._truncated = self._pool.submit(write), truncated

    def _finish(self) -> None:
        """Waits for the write, if there is one, and tells what became of it."""
        write, truncated = self._write, self._truncated
        self._write, self._truncated = None, {}
        if write is None:
            return
        failed = list(write.result() or ())
        self._report.failed += failed
        lost = {failure.id for failure in failed}
        kept = [i for i in truncated if i not in lost]
        self._report.truncated += sum(truncated[i] for i in kept)
        if kept:
            self._stored(kept, True)

    def _batches(self, items: list[Pending], digests: dict[str, Digest]) -> Iterator[EmbeddedBatch]:
        """The items with their embeddings, as many at a time as the encoder hands out."""
        if not items:
            return
        given = [item.embedding for item in items if item.embedding is not None]
        for part, output in [(items, M3Output.concatenate(given))] if given else self._encoded(items):
            documents = [item.document for item in part]
            if _unfit(output):  # the caller's, or those of a diverged model
                if not given:
                    self._check_encoder()
                reasons = [_unfit(output[row]) for row in range(len(output))]
                self._report.failed += [
                    FailedDocument(document.id, why) for document, why in zip(documents, reasons, strict=True) if why
                ]
                good = [row for row, why in enumerate(reasons) if not why]
                documents, output = [documents[row] for row in good], output.take(good)
            if documents:
                yield EmbeddedBatch(documents, [digests[document.id] for document in documents], output)

    def _encoded(self, items: list[Pending], again: bool = True) -> Iterator[tuple[list[Pending], M3Output]]:
        """The items with what the encoder makes of them; where it fails they are halved, until one is to blame.

        What the device may be to blame for, such as memory that others hold, is tried once more after a pause.
        """
        done, reason, passing = 0, "", False
        try:
            for output in self._encoder.iter_documents(item.document.content for item in items):
                part = items[done : done + len(output)]
                done += len(output)
                yield part, output
        except Exception as err:
            reason = fault("the encoder", err)
            passing = again and isinstance(err, MemoryError | RuntimeError)  # torch raises the latter
        if not reason:
            return
        self._check_encoder()  # out of the handler: the error holds the memory of the pass that failed
        rest = items[done:]
        if len(rest) == 1 and passing:
            time.sleep(_PAUSE_S)
            yield from self._encoded(rest, again=False)
            return
        if len(rest) == 1:
            self._report.failed.append(FailedDocument(rest[0].document.id, reason))
            return
        middle = len(rest) // 2
        for half in filter(None, (rest[:middle], rest[middle:])):
            yield from self._encoded(half)

    def _check_encoder(self) -> None:
        """Passes if it is a document that the encoder fails at, and not every text.

        Raises:
            Exception: The encoder's own.
            ValueError: If it makes no number of any text.
        """
        if not all(map(_finite, self._encoder.iter_documents(["a fox"]))):
            msg = f"{NOT_FINITE} even for 'a fox': the model is broken, or its dtype too narrow"
            raise ValueError(msg)


NOT_FINITE = "embeddings must be finite, got NaN or infinity"


def _unfit(output: M3Output) -> str:
    """Says why embeddings cannot be stored; "" if they can."""
    if not _finite(output):
        return NOT_FINITE
    sparse = output.sparse
    if sparse is None or not len(sparse.values):
        return ""
    if (least := sparse.values.min()) < 0:
        return f"sparse weights must not be negative, got {least:g}; M3's are 0 or more, so leave out the others"
    outside = (sparse.indices < 0) | (sparse.indices >= sparse.vocab_size)
    if outside.any():
        found = sparse.indices[outside][0]
        return f"sparse weights must be of token ids from 0 to {sparse.vocab_size - 1}, got {found}"
    return ""


def fault(what: str, err: Exception) -> str:
    """Says in one line why a document is not stored that something fails at."""
    return " ".join(f"{what} fails at it: {type(err).__name__}: {err}".split())[:500]


def _finite(output: M3Output) -> bool:
    arrays = [output.dense]
    arrays += [output.sparse.values] if output.sparse is not None else []
    arrays += [output.multi_vector.vectors] if output.multi_vector is not None else []
    return all(np.isfinite(array).all() for array in arrays if array is not None)
