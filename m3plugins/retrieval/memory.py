"""The in-memory index: numpy, exact. The oracle of every engine's tests, and good enough for a notebook."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head, M3Output
from m3plugins.retrieval.document import Candidate, Document
from m3plugins.retrieval.filters import And, Comparison, Not, Or, matches
from m3plugins.retrieval.index import Ack, AnyFilter, UpsertReport, check_ids
from m3plugins.retrieval.ingest import Batch, ingest
from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.heads import HeadScores, head_scores
from m3plugins.scoring.sparse import sparse_scores


@dataclass(frozen=True)
class _Stored:
    document: Document
    digest: str
    row: int


class InMemoryHybridIndex:
    """A `HybridIndex` in the process's memory: every score by brute force, nothing on disk.

    Embeddings are kept in columns; a read after writes first joins them, in time linear in the index.

    Args:
        encoder: Encodes the documents, and the queries.
    """

    def __init__(self, *, encoder: M3Encoder) -> None:
        self._encoder = encoder
        self._stored: dict[str, _Stored] = {}
        self._parts: list[
            M3Output
        ] = []  # their rows, counted through, are those of `_stored`, and of what was replaced
        self._lock = threading.RLock()
        self._closed = False

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""
        return self._encoder

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents; see `HybridIndex.upsert`."""
        self._check_open()
        return ingest(
            documents, embeddings, encoder=self._encoder, stored_digests=self._digests, write=self._write, on_ack=on_ack
        )

    def delete(self, ids: Sequence[str] | None = None, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """Deletes by ids or by filter; see `HybridIndex.delete`."""
        self._check_open()
        if (ids is None) == (filter is None):
            msg = "delete takes either ids or a filter"
            raise ValueError(msg)
        with self._lock:
            doomed = self._matching(filter) if ids is None else [i for i in check_ids(ids) if i in self._stored]
            for i in doomed:
                del self._stored[i]
        return len(doomed)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order."""
        self._check_open()
        with self._lock:
            return [self._stored[i].document for i in check_ids(ids) if i in self._stored]

    def count(self, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """How many documents there are, or match."""
        self._check_open()
        with self._lock:
            return len(self._matching(filter))

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,  # noqa: A002
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, as they are at the time of the call."""
        self._check_open()
        with self._lock:
            columns = self._columns()
            stored = [self._stored[i] for i in self._matching(filter)]
        if with_embeddings and columns is not None:
            return ((item.document, columns[item.row]) for item in stored)
        return (item.document for item in stored)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,  # noqa: A002
    ) -> dict[Head, list[Candidate]]:
        """The best k documents of the dense and of the sparse head."""
        self._check_open()
        with self._lock:
            columns = self._columns()
            ids = self._matching(filter)
            rows = np.array([self._stored[i].row for i in ids], dtype=np.int64)
        if columns is None:
            return {head: [] for head in query.heads if head != "multi_vector"}
        found: dict[Head, list[Candidate]] = {}
        if query.dense is not None and columns.dense is not None:
            found["dense"] = _best(ids, dense_scores(query.dense, columns.dense)[0, rows], k)
        if query.sparse is not None and columns.sparse is not None:
            best = _best(ids, sparse_scores(query.sparse, columns.sparse)[0, rows], k)
            found["sparse"] = [candidate for candidate in best if candidate.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
        """Exact scores of the given documents."""
        self._check_open()
        with self._lock:
            columns = self._columns()
            rows = {i: self._stored[i].row for i in check_ids(ids) if i in self._stored}
        if columns is None or not rows:
            return {}
        if len(rows) > len(columns) // 2:  # cheaper than copying the rows out
            scores = head_scores(query, columns)
            return {i: scores[row] for i, row in rows.items()}
        return dict(zip(rows, head_scores(query, columns.take(list(rows.values()))), strict=True))

    def drop(self) -> None:
        """Forgets every document and closes the index."""
        self.close()

    def close(self) -> None:
        """Frees the memory; any further call raises `ValueError`."""
        with self._lock:
            self._stored = {}
            self._parts = []
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            msg = "this index is closed; make a new InMemoryHybridIndex"
            raise ValueError(msg)

    def _digests(self, ids: Sequence[str]) -> dict[str, str]:
        with self._lock:
            return {i: self._stored[i].digest for i in ids if i in self._stored}

    def _write(self, batch: Batch) -> None:
        with self._lock:
            first = sum(map(len, self._parts))
            for row, (document, digest) in enumerate(zip(batch.documents, batch.digests, strict=True), start=first):
                own = replace(document, metadata=copy.deepcopy(dict(document.metadata)))  # the caller's may change
                self._stored[document.id] = _Stored(own, digest, row)
            self._parts.append(batch.embeddings)

    def _columns(self) -> M3Output | None:
        """All embeddings joined, less those of replaced and deleted documents; None where there are none."""
        if not self._stored:
            self._parts = []
            return None
        if len(self._parts) > 1:
            self._parts = [M3Output.concatenate(self._parts)]
        if len(self._parts[0]) > len(self._stored):
            self._parts = [self._parts[0].take([item.row for item in self._stored.values()])]
            self._stored = {i: replace(item, row=row) for row, (i, item) in enumerate(self._stored.items())}
        return self._parts[0]

    def _matching(self, filter: AnyFilter | None) -> list[str]:  # noqa: A002
        if filter is None:
            return list(self._stored)
        if not isinstance(filter, Comparison | And | Or | Not):
            msg = f"the in-memory index takes filters of m3plugins.retrieval.filters, got {type(filter).__name__}"
            raise TypeError(msg)
        return [i for i, item in self._stored.items() if matches(filter, item.document.metadata)]


def _best(ids: Sequence[str], scores: NDArray[np.float32], k: int) -> list[Candidate]:
    """The k best, ties by id."""
    best = sorted(zip(scores.tolist(), ids, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    return [Candidate(i, score) for score, i in best]
