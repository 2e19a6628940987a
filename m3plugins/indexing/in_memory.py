"""The in-memory index: numpy, exact. The oracle of every engine's tests, and good enough for a notebook."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression import DEFAULT_CODEC, Codec, get_codec
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.forking import held_over_fork
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import Head, M3Output
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.document import Candidate, Digest, Document, detached
from m3plugins.indexing.filters import And, AnyFilter, Comparison, Filter, Not, Or, matches
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.locking import DocumentLocks
from m3plugins.indexing.reader import Reader
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import REPLACED, EmbeddedBatch, Writer, is_current
from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.heads import HeadScores, Signal, head_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins.scoring.products import dot_products
from m3plugins.scoring.sparse import sparse_scores

_REOPEN = "make a new InMemoryHybridIndex"


class InMemoryHybridIndex(HybridIndex):
    """A `HybridIndex` in the process's memory: every score by brute force, nothing on disk.

    Dense and sparse embeddings are kept in columns; a read after writes first joins them, in time linear in
    the index. A scan yields the documents as they are at the time of the call. It has no BM25.

    Args:
        encoder: Encodes the documents, and the queries.
        codec: How token vectors are kept: "float16", "int8" or "binary"; None keeps them as they are, float32.
        passages: How to cut documents into what is stored; None stores them as they are.
    """

    _reopen = _REOPEN
    _forkable = True

    def __init__(
        self, *, encoder: M3Encoder, codec: str | None = DEFAULT_CODEC, passages: Passages | None = None
    ) -> None:
        identity = Identity.of(encoder, codec=codec, passages=passages)
        store = _Store(_Float32() if codec is None else get_codec(codec))
        super().__init__(_Reader(store, identity.multi_vector_dim), store, encoder=encoder, identity=identity)


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


class _Store(Writer[Filter | None]):
    """Keeps documents and token vectors by id, the other embeddings in columns."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.lock = threading.RLock()
        held_over_fork(self)
        self.items: dict[str, _Stored] = {}
        self._locks = DocumentLocks()
        self._closed = False
        self._parts: list[M3Output] = []  # their rows, counted through, are those of `items`, and of what is gone

    def check(self, document: Document) -> None:
        document.check()

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        with self.lock:
            return {i: self.items[i].digest for i in ids if i in self.items}

    def close(self) -> None:
        """Forgets everything; whoever goes on writing hears of it."""
        with self.lock:
            self._closed, self.items, self._parts = True, {}, []

    def write(self, batch: EmbeddedBatch) -> None:
        multi_vector = batch.embeddings.multi_vector
        assert multi_vector is not None  # ingest stores all heads
        encoded = [self.codec.encode(vectors) for vectors in multi_vector]
        with self.lock:
            if self._closed:
                msg = f"this index is closed; {_REOPEN}"
                raise ValueError(msg)
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

    def remove_matching(self, plan: Filter | None) -> int:
        return self.remove(self.matching(plan))

    def deletion(self) -> AbstractContextManager[object]:
        return self.lock

    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        return self._locks.holding(ids)

    def flush(self) -> None:
        """Nothing to do: what is written is there."""

    def drop(self) -> None:
        """Nothing to do: what is closed is gone."""

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

    def matching(self, plan: Filter | None) -> list[str]:
        """Returns the ids of what matches."""
        return [i for i, item in self.items.items() if plan is None or matches(plan, item.document.metadata)]


@dataclass(frozen=True)
class _Reader(Reader[Filter | None]):
    """Ranks by brute force.

    Attributes:
        store: What is kept.
        multi_vector_dim: Width of the token vectors.
    """

    store: _Store
    multi_vector_dim: int

    @property
    def name(self) -> str:
        return "in memory"

    @property
    def bm25_fault(self) -> str:
        return "the in-memory index has no BM25; leave the weight of bm25 at 0"

    def compile(self, filter: AnyFilter | None) -> Filter | None:
        if filter is not None and not isinstance(filter, Comparison | And | Or | Not):
            msg = f"the in-memory index takes filters of m3plugins.indexing.filters, got {type(filter).__name__}"
            raise TypeError(msg)
        return filter

    def get(self, ids: Sequence[str]) -> list[Document]:
        return self.store.get(ids)

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        return self.store.digests(ids)

    def count(self, plan: Filter | None) -> int:
        with self.store.lock:
            return len(self.store.matching(plan))

    def scan(self, plan: Filter | None) -> Iterator[Document]:
        with self.store.lock:
            stored = [self.store.items[i].document for i in self.store.matching(plan)]
        return map(detached, stored)

    def scan_embeddings(self, plan: Filter | None) -> Iterator[tuple[Document, M3Output]]:
        with self.store.lock:
            columns = self.store.columns()
            stored = [self.store.items[i] for i in self.store.matching(plan)] if columns is not None else []
        return ((detached(item.document), self._output(item, columns)) for item in stored if columns is not None)

    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        columns, found = self.store.find(ids)
        return {} if columns is None else {i: self._output(item, columns).select(heads) for i, item in found.items()}

    def candidates(
        self, query: M3Output, k: int, plan: Filter | None, text: str | None
    ) -> dict[Signal, list[Candidate]]:
        with self.store.lock:
            columns = self.store.columns()
            ids = self.store.matching(plan)
            rows = np.array([self.store.items[i].row for i in ids], dtype=np.int64)
        if columns is None:
            return {head: [] for head in query.heads if head != "multi_vector"}
        found: dict[Signal, list[Candidate]] = {}
        if query.dense is not None and columns.dense is not None:
            found["dense"] = _best(ids, dense_scores(query.dense, columns.dense)[0, rows], k)
        if query.sparse is not None and columns.sparse is not None:
            best = _best(ids, sparse_scores(query.sparse, columns.sparse)[0, rows], k)
            found["sparse"] = [candidate for candidate in best if candidate.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        columns, found = self.store.find(ids)
        if columns is None or not found:
            return {}
        rows = [item.row for item in found.values()]
        if len(rows) > len(columns) // 2:  # cheaper than copying the rows out
            every = head_scores(query, columns)
            scores = [every[row] for row in rows]
        else:
            scores = head_scores(query, columns.take(rows))
        if query.multi_vector is not None:
            codec, vectors = self.store.codec, query.multi_vector.vectors
            late = [mean_of_maxima(codec.products(item.vectors, vectors)) for item in found.values()]
            scores = [replace(score, multi_vector=one) for score, one in zip(scores, late, strict=True)]
        return dict(zip(found, scores, strict=True))

    def close(self) -> None:
        self.store.close()

    def _output(self, item: _Stored, columns: M3Output) -> M3Output:
        """Returns all embeddings of one document."""
        vectors = self.store.codec.decode(item.vectors, self.multi_vector_dim)
        return replace(columns[item.row], multi_vector=MultiVectorEmbeddings.from_list([vectors]))


def _own(document: Document) -> Document:
    """A copy that a change of the caller's metadata does not reach."""
    return replace(detached(document), headings=())


def _best(ids: Sequence[str], scores: NDArray[np.float32], k: int) -> list[Candidate]:
    """The k best, ties by id."""
    best = sorted(zip(scores.tolist(), ids, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    return [Candidate(i, score) for score, i in best]
