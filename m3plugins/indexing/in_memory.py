"""The in-memory index: numpy, exact. The oracle of every engine's tests, and good enough for a notebook."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression import DEFAULT_CODEC, Codec, get_codec
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.forking import held_over_fork
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import HEADS, M3Output, check_heads
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.document import Candidate, Digest, Document, detached
from m3plugins.indexing.filters import And, Comparison, Not, Or, matches
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.index import AnyFilter, FailedDocument, check_ids
from m3plugins.indexing.locking import DocumentLocks
from m3plugins.indexing.named_index import WritableIndex
from m3plugins.indexing.writing import REPLACED, Batch, Writer, is_current
from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.heads import HeadScores, Signal, check_query, head_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins.scoring.products import dot_products
from m3plugins.scoring.sparse import sparse_scores


class InMemoryHybridIndex(WritableIndex):
    """A `HybridIndex` in the process's memory: every score by brute force, nothing on disk.

    Dense and sparse embeddings are kept in columns; a read after writes first joins them, in time linear in
    the index. It has no BM25.

    Args:
        encoder: Encodes the documents, and the queries.
        codec: How token vectors are kept: "float16", "int8" or "binary"; None keeps them as they are, float32.
        passages: How to cut documents into what is stored; None stores them as they are.
    """

    _reopen = "make a new InMemoryHybridIndex"
    _forkable = True

    def __init__(
        self, *, encoder: M3Encoder, codec: str | None = DEFAULT_CODEC, passages: Passages | None = None
    ) -> None:
        super().__init__(encoder)
        self._identity = Identity.of(encoder, codec=codec, passages=passages)
        self._store = _Store(_Float32() if codec is None else get_codec(codec))

    @property
    def identity(self) -> Identity:
        """What made the stored vectors."""
        return self._identity

    @property
    def writer(self) -> Writer:
        """What stores embedded documents as they come."""
        return self._store

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order."""
        self._check_open()
        return self._store.get(check_ids(ids))

    def embeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """The embeddings of these documents, in this order, token vectors as the codec kept them."""
        self._check_open()
        kept = check_heads(heads)
        columns, found = self._store.find(check_ids(ids))
        if columns is None:
            return {}
        return {i: self._output(item, columns).select(kept) for i, item in found.items()}

    def count(self, filter: AnyFilter | None = None) -> int:
        """How many documents there are, or match."""
        self._check_open()
        with self._store.lock:
            return len(self._store.matching(filter))

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, as they are at the time of the call."""
        self._check_open()
        with self._store.lock:
            columns = self._store.columns()
            stored = [self._store.items[i] for i in self._store.matching(filter)]
        if with_embeddings and columns is not None:
            return ((detached(item.document), self._output(item, columns)) for item in stored)
        return (detached(item.document) for item in stored)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """The best k documents of the dense and of the sparse head."""
        self._check_open()
        check_query(query)
        _check_no_text(text)
        with self._store.lock:
            columns = self._store.columns()
            ids = self._store.matching(filter)
            rows = np.array([self._store.items[i].row for i in ids], dtype=np.int64)
        if columns is None:
            return {head: [] for head in query.heads if head != "multi_vector"}
        found: dict[Signal, list[Candidate]] = {}
        if query.dense is not None and columns.dense is not None:
            found["dense"] = _best(ids, dense_scores(query.dense, columns.dense)[0, rows], k)
        if query.sparse is not None and columns.sparse is not None:
            best = _best(ids, sparse_scores(query.sparse, columns.sparse)[0, rows], k)
            found["sparse"] = [candidate for candidate in best if candidate.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Exact scores of the given documents."""
        self._check_open()
        wanted = check_ids(ids)
        check_query(query)
        _check_no_text(text)
        columns, found = self._store.find(wanted)
        if columns is None or not found:
            return {}
        rows = [item.row for item in found.values()]
        if len(rows) > len(columns) // 2:  # cheaper than copying the rows out
            every = head_scores(query, columns)
            scores = [every[row] for row in rows]
        else:
            scores = head_scores(query, columns.take(rows))
        if query.multi_vector is not None:
            codec, vectors = self._store.codec, query.multi_vector.vectors
            late = [mean_of_maxima(codec.products(item.vectors, vectors)) for item in found.values()]
            scores = [replace(score, multi_vector=one) for score, one in zip(scores, late, strict=True)]
        return dict(zip(found, scores, strict=True))

    def drop(self) -> None:
        """Forgets every document and closes the index."""
        self.close()

    def close(self) -> None:
        """Frees the memory; any further call raises `ValueError`."""
        self._closed = True
        self._store.end(self._check_open)

    def _output(self, item: _Stored, columns: M3Output) -> M3Output:
        """All embeddings of one document."""
        vectors = self._store.codec.decode(item.vectors, self._identity.multi_vector_dim)
        return replace(columns[item.row], multi_vector=MultiVectorEmbeddings.from_list([vectors]))

    def _deleting(self) -> threading.RLock:
        return self._store.lock

    def _remove_matching(self, filter: AnyFilter) -> int:
        return self._store.remove(self._store.matching(filter))


@dataclass(frozen=True)
class _Stored:
    document: Document
    digest: Digest
    row: int
    vectors: bytes


class _Float32:
    """Token vectors as they are, in the place of a codec."""

    name = ""

    def bytes_per_token(self, dim: int) -> int:
        return 4 * dim

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        return vectors.tobytes()

    def decode(self, data: bytes, dim: int) -> NDArray[np.float32]:
        return np.frombuffer(data, np.float32).reshape(-1, dim)

    def products(self, data: bytes, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        return dot_products(self.decode(data, queries.shape[1]), queries)


class _Store:
    """Documents and token vectors by id, the other embeddings in columns: the `Writer` of this engine."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.lock = threading.RLock()
        held_over_fork(self)
        self.items: dict[str, _Stored] = {}
        self._locks = DocumentLocks()
        self._check_open: Callable[[], None] = lambda: None
        self._parts: list[M3Output] = []  # their rows, counted through, are those of `items`, and of what is gone

    def check(self, document: Document) -> None:
        document.check()

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        with self.lock:
            return {i: self.items[i].digest for i in ids if i in self.items}

    def end(self, check: Callable[[], None]) -> None:
        """Forgets everything; whoever goes on writing hears of it by `check`, which raises."""
        with self.lock:
            self._check_open, self.items, self._parts = check, {}, []

    def write(self, batch: Batch) -> None:
        multi_vector = batch.embeddings.multi_vector
        assert multi_vector is not None  # ingest stores all heads
        encoded = [self.codec.encode(vectors) for vectors in multi_vector]
        with self.lock:
            self._check_open()
            first = sum(map(len, self._parts))
            stored = zip(batch.documents, batch.digests, encoded, strict=True)
            for row, (document, digest, vectors) in enumerate(stored, start=first):
                self.items[document.id] = _Stored(_own(document), digest, row, vectors)
            self._parts.append(batch.embeddings.select(["dense", "sparse"]))

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> list[FailedDocument]:
        failed = []
        known: Sequence[Digest | None] = expected or [None] * len(digests)
        with self.lock:
            for document, digest, one in zip(documents, digests, known, strict=True):
                stored = self.items.get(document.id)
                if stored is not None and is_current(stored.digest, digest, one):
                    self.items[document.id] = replace(stored, document=_own(document), digest=digest)
                else:
                    failed.append(FailedDocument(document.id, REPLACED))
        return failed

    def get(self, ids: Sequence[str]) -> list[Document]:
        with self.lock:
            return [detached(self.items[i].document) for i in ids if i in self.items]

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        wanted = set(parent_ids)
        with self.lock:
            parents = {i: item.document.parent_id for i, item in self.items.items()}
        return {i: parent for i, parent in parents.items() if parent is not None and parent in wanted}

    def remove(self, ids: Sequence[str]) -> int:
        with self.lock:
            return sum(self.items.pop(i, None) is not None for i in ids)

    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        return self._locks.holding(ids)

    def flush(self) -> None:
        """Nothing to do: what is written is there."""

    def find(self, ids: Sequence[str]) -> tuple[M3Output | None, dict[str, _Stored]]:
        """The columns, and these documents, whose rows are theirs."""
        with self.lock:
            return self.columns(), {i: self.items[i] for i in ids if i in self.items}

    def columns(self) -> M3Output | None:
        """Dense and sparse embeddings joined, less those of documents that are gone; None where there are none."""
        if not self.items:
            self._parts = []
            return None
        if len(self._parts) > 1:
            self._parts = [M3Output.concatenate(self._parts)]
        if len(self._parts[0]) > len(self.items):
            self._parts = [self._parts[0].take([item.row for item in self.items.values()])]
            self.items = {i: replace(item, row=row) for row, (i, item) in enumerate(self.items.items())}
        return self._parts[0]

    def matching(self, filter: AnyFilter | None) -> list[str]:
        if filter is None:
            return list(self.items)
        if not isinstance(filter, Comparison | And | Or | Not):
            msg = f"the in-memory index takes filters of m3plugins.indexing.filters, got {type(filter).__name__}"
            raise TypeError(msg)
        return [i for i, item in self.items.items() if matches(filter, item.document.metadata)]


def _own(document: Document) -> Document:
    """A copy that a change of the caller's metadata does not reach."""
    return replace(detached(document), headings=())


def _best(ids: Sequence[str], scores: NDArray[np.float32], k: int) -> list[Candidate]:
    """The k best, ties by id."""
    best = sorted(zip(scores.tolist(), ids, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    return [Candidate(i, score) for score, i in best]


def _check_no_text(text: str | None) -> None:
    if text is not None:
        msg = "the in-memory index has no BM25; leave the weight of bm25 at 0"
        raise ValueError(msg)
