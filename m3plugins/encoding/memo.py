"""One forward pass a text, for hosts that ask for one head at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

from m3plugins.encoding.forking import renew_after_fork
from m3plugins.encoding.output import HEADS, Head, M3Output, check_heads
from m3plugins.encoding.text import utf8_length
from m3plugins.encoding.tokenizing import Layout, check_text, check_texts

MAX_BYTES = 256 << 20
_TOGETHER: tuple[Head, ...] = ("dense", "sparse")
"""What a document is encoded for, whoever asks first: few bytes to keep."""

_Key = tuple[Layout, str]
"""What decides an embedding of one encoder. Queries and documents differ by their maximum length and prompt."""


class _Encode(Protocol):
    def __call__(self, texts: Iterable[str], *, heads: Iterable[str]) -> M3Output: ...


class Encoder(Protocol):
    """The part of `M3Encoder` that a memo calls."""

    def encode_queries(self, texts: Iterable[str], *, heads: Iterable[str]) -> M3Output:
        """Encodes queries."""

    def encode_documents(self, texts: Iterable[str], *, heads: Iterable[str]) -> M3Output:
        """Encodes documents."""

    @property
    def query_layout(self) -> Layout:
        """How a query is laid out for the model."""

    @property
    def document_layout(self) -> Layout:
        """How a document is laid out for the model."""


class EmbeddingMemo:
    """An encoder that remembers.

    Frameworks ask for a text's dense and sparse embeddings in two calls, and for those of one query in several
    places; here all but the first find them ready. What another thread is computing is waited for, not computed
    again. What was used least lately is forgotten first, but a call never forgets its own texts: it stops keeping
    more. Outputs equal the encoder's own. Safe to share among threads.

    Args:
        encoder: What computes.
        max_bytes: Of embeddings and texts to keep; 0 keeps nothing.

    Raises:
        ValueError: If `max_bytes` is negative.
    """

    def __init__(self, encoder: Encoder, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 0:
            msg = f"max_bytes must be an integer >= 0, got {max_bytes}"
            raise ValueError(msg)
        self.encoder = encoder
        self.max_bytes = max_bytes
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begins anew in a forked process, where nobody computes what the parent's threads promised."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, M3Output] = OrderedDict()
        self._bytes = 0
        self._coming: dict[_Key, _Coming] = {}

    def encode_queries(self, texts: Iterable[str], *, heads: Iterable[str] = HEADS) -> M3Output:
        """Encodes as `M3Encoder.encode_queries` does, all heads: who embeds a query may also retrieve and rerank."""
        layout = self.encoder.query_layout
        return self._encode(self.encoder.encode_queries, layout, texts, check_heads(heads), HEADS)

    def encode_documents(self, texts: Iterable[str], *, heads: Iterable[str] = HEADS) -> M3Output:
        """Encodes as `M3Encoder.encode_documents` does; dense and sparse together, whichever is asked for."""
        asked = check_heads(heads)
        computed = check_heads({*asked, *_TOGETHER})
        return self._encode(self.encoder.encode_documents, self.encoder.document_layout, texts, asked, computed)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def _encode(
        self,
        encode: _Encode,
        layout: Layout,
        texts: Iterable[str],
        asked: Sequence[Head],
        computed: Sequence[Head],
    ) -> M3Output:
        texts = list(check_texts(texts))
        for position, text in enumerate(texts):
            check_text(text, position)
        keys = [(layout, text) for text in texts]
        found: dict[_Key, M3Output] = {}
        while missing := [key for key in dict.fromkeys(keys) if key not in found]:
            ours, others = self._claim(missing, asked, computed, found)
            if ours:
                found |= self._compute(encode, ours, computed, protected=frozenset(keys))
            for key, promise in others.items():  # after our own, so that no two calls wait for each other
                if (output := promise.row.result()) is not None:
                    found[key] = output
        rows = [found[key].select(asked) for key in keys]
        if len(rows) < 2:  # joining more copies them; what is kept must not be in a caller's hands
            return rows[0][0] if rows else encode([], heads=asked)
        return M3Output.concatenate(rows)

    def _claim(
        self, missing: Sequence[_Key], asked: Sequence[Head], computed: Sequence[Head], found: dict[_Key, M3Output]
    ) -> tuple[dict[_Key, _Coming], dict[_Key, _Coming]]:
        """Puts what is kept into `found`; of the rest, what we now promise to compute and what others have."""
        ours: dict[_Key, _Coming] = {}
        others: dict[_Key, _Coming] = {}
        with self._lock:
            for key in missing:
                kept, coming = self._kept.get(key), self._coming.get(key)
                if kept is not None and set(asked) <= set(kept.heads):
                    self._kept.move_to_end(key)
                    found[key] = kept
                elif coming is not None and set(asked) <= set(coming.heads):
                    others[key] = coming
                else:
                    ours[key] = self._coming[key] = _Coming(computed)
        return ours, others

    def _compute(
        self, encode: _Encode, ours: dict[_Key, _Coming], heads: Sequence[Head], protected: frozenset[_Key]
    ) -> dict[_Key, M3Output]:
        rows: dict[_Key, M3Output] = {}
        try:
            rows = dict(zip(ours, encode([text for _, text in ours], heads=heads), strict=True))
            return rows
        finally:
            with self._lock:
                for key, promise in ours.items():
                    if self._coming.get(key) is promise:  # else a call that needs more heads took over
                        del self._coming[key]
                    if key in rows:
                        self._keep(key, rows[key], protected)
            for key, promise in ours.items():
                promise.row.set_result(rows.get(key))  # None: who waits for it tries it alone

    def _keep(self, key: _Key, row: M3Output, protected: frozenset[_Key]) -> None:
        size, kept = _size(key, row), self._kept.get(key)
        if size > self.max_bytes or (kept is not None and set(row.heads) <= set(kept.heads)):
            return
        self._forget(key)
        while self._bytes + size > self.max_bytes:
            oldest = next(iter(self._kept), None)
            if oldest is None or oldest in protected:
                return
            self._forget(oldest)
        self._kept[key] = row
        self._bytes += size

    def _forget(self, key: _Key) -> None:
        row = self._kept.pop(key, None)
        if row is not None:
            self._bytes -= _size(key, row)


class _Coming:
    """A text that a call is computing. Its row is None if that fails."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.heads = heads
        self.row: Future[M3Output | None] = Future()


def _size(key: _Key, row: M3Output) -> int:
    return row.nbytes + utf8_length(key[1])
