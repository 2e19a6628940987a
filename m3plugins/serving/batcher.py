"""Dynamic batching: the texts of many requests share forward passes, queries first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS, Head, M3Output

Kind = Literal["query", "document"]

QUERIES_IN_A_ROW = 8
"""Batches of queries after which waiting documents have a turn."""


class OverloadedError(RuntimeError):
    """The queue is full.

    Attributes:
        retry_after: Seconds after which to ask again.
    """

    def __init__(self, queued: int, retry_after: int) -> None:
        super().__init__(f"{queued:,} texts are waiting already; ask again in {retry_after} s")
        self.retry_after = retry_after


class ClosedError(RuntimeError):
    """The service is ending and takes no more requests."""


@dataclass(eq=False)
class _Request:
    """The texts of one call, some of which may be other calls' too."""

    heads: Sequence[Head]
    rows: list[M3Output | None]
    left: int
    answer: Future[M3Output] = field(default_factory=Future)

    @property
    def is_abandoned(self) -> bool:
        return self.answer.done()

    def take(self, position: int, row: M3Output) -> None:
        self.rows[position] = row.select(self.heads)
        self.left -= 1
        if not self.left and self.answer.set_running_or_notify_cancel():
            self.answer.set_result(M3Output.concatenate([row for row in self.rows if row is not None]))

    def fail(self, err: BaseException) -> None:
        if not self.answer.done() and self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(err)


@dataclass(eq=False)
class _Text:
    """A text in the queue, with the places in requests that wait for its embeddings."""

    text: str
    waiting: list[tuple[_Request, int]] = field(default_factory=list)

    @property
    def heads(self) -> set[Head]:
        return {head for request, _ in self.waiting if not request.is_abandoned for head in request.heads}


class Batcher:
    """Encodes the texts of many callers in one thread, which several devices may serve.

    A batch waits a moment for others to join it, and holds texts up to a size, so that a long request is encoded in
    parts, between which queries have their turn. A text that several requests wait for, or that was encoded lately,
    costs one forward pass, whatever heads each of them asks for. Requests that are cancelled leave the queue.

    Args:
        encoder: Encodes; its memo remembers.
        wait_s: Seconds for which a batch waits for more texts while it is not full.
        batch_characters: Size of a full batch.
        max_queued: Most texts that may wait.
    """

    def __init__(
        self, encoder: M3Encoder, *, wait_s: float = 0.002, batch_characters: int = 1 << 16, max_queued: int = 16_384
    ) -> None:
        self.encoder = encoder
        self._wait_s = wait_s
        self._batch_characters = batch_characters
        self._max_queued = max_queued
        self._queues: dict[Kind, OrderedDict[str, _Text]] = {"query": OrderedDict(), "document": OrderedDict()}
        self._changed = threading.Condition()
        self._closed = False
        self._in_a_row = 0
        self._seconds_per_text = 0.0
        self._thread = threading.Thread(target=self._run, name="m3-batcher", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many texts wait."""
        return sum(map(len, self._queues.values()))

    def submit(self, kind: Kind, texts: Sequence[str], heads: Sequence[Head] = HEADS) -> Future[M3Output]:
        """Queues texts, all or none of them.

        Args:
            kind: How they are to be encoded.
            texts: At least one; valid Unicode.
            heads: Which to compute.

        Returns:
            The embeddings in input order, when they are there. Cancelled, it takes the texts out of the queue.

        Raises:
            OverloadedError: If too many texts wait already.
            ClosedError: If the batcher is closed.
        """
        request = _Request(heads, [None] * len(texts), len(texts))
        with self._changed:
            if self._closed:
                msg = "the service is ending; ask another one"
                raise ClosedError(msg)
            queue = self._queues[kind]
            if self.queued + len({*texts} - queue.keys()) > self._max_queued:
                raise OverloadedError(self.queued, max(1, round(self.queued * self._seconds_per_text)))
            for position, text in enumerate(texts):
                queue.setdefault(text, _Text(text)).waiting.append((request, position))
            self._changed.notify()
        request.answer.add_done_callback(lambda answer: self._leave() if answer.cancelled() else None)
        return request.answer

    def close(self) -> None:
        """Takes no more texts, encodes those that wait, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _leave(self) -> None:
        """Drops texts that nobody waits for any more."""
        with self._changed:
            for queue in self._queues.values():
                for text in [text for text, queued in queue.items() if not queued.heads]:
                    del queue[text]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.queued or self._closed)
                if not self.queued:
                    return
                kind = self._next_kind()
                until = time.monotonic() + self._wait_s
                while not self._closed and self._waiting_characters(kind) < self._batch_characters:
                    if not self._changed.wait(until - time.monotonic()) and time.monotonic() >= until:
                        break
                batch = self._take(kind)
            if batch:
                began = time.monotonic()
                self._encode(kind, batch)
                self._seconds_per_text = (time.monotonic() - began) / len(batch)

    def _next_kind(self) -> Kind:
        waits = bool(self._queues["document"])
        if self._queues["query"] and not (waits and self._in_a_row >= QUERIES_IN_A_ROW):
            self._in_a_row += 1
            return "query"
        self._in_a_row = 0
        return "document"

    def _waiting_characters(self, kind: Kind) -> int:
        return sum(len(text) for text in self._queues[kind])

    def _take(self, kind: Kind) -> list[_Text]:
        """Takes the texts that have waited longest, as many as fill a batch."""
        batch: list[_Text] = []
        characters, queue = 0, self._queues[kind]
        while queue and (not batch or characters + len(next(iter(queue))) <= self._batch_characters):
            _, text = queue.popitem(last=False)
            characters += len(text.text)
            batch.append(text)
        return batch

    def _encode(self, kind: Kind, batch: list[_Text]) -> None:
        """Encodes a batch and answers; where that fails it is halved, until one text is to blame."""
        memo = self.encoder.memo
        encode = memo.encode_queries if kind == "query" else memo.encode_documents
        heads = set().union(*(text.heads for text in batch))
        if not heads:  # abandoned meanwhile
            return
        try:
            output = encode([text.text for text in batch], heads=heads)
        except Exception as err:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._encode(kind, batch[:middle])
                self._encode(kind, batch[middle:])
            else:
                for request, _ in batch[0].waiting:
                    request.fail(err)
            return
        for row, text in enumerate(batch):
            one = output[row]
            for request, position in text.waiting:
                if not request.is_abandoned:
                    request.take(position, one)
