"""The in-memory index: numpy, exact. The oracle of every engine's tests, and good enough for a notebook."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head, M3Output
from m3plugins.retrieval.document import Candidate, Document
from m3plugins.retrieval.filters import And, Comparison, Filter, Not, Or, matches
from m3plugins.retrieval.index import Ack, AnyFilter, UpsertReport
from m3plugins.retrieval.ingest import Batch, ingest
from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.heads import HeadScores, head_scores
from m3plugins.scoring.sparse import sparse_scores


@dataclass(frozen=True)
class _Row:
    document: Document
    digest: str
    embedding: M3Output


class InMemoryHybridIndex:
    """A `HybridIndex` in the process's memory: every score by brute force, nothing on disk.

    Args:
        encoder: Encodes the documents, and the queries.
    """

    def __init__(self, *, encoder: M3Encoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, _Row] = {}
        self._columns: tuple[list[str], M3Output] | None = None
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
            doomed = self._matching(filter) if ids is None else [i for i in dict.fromkeys(ids) if i in self._rows]
            for i in doomed:
                del self._rows[i]
            self._columns = None
        return len(doomed)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order."""
        self._check_open()
        with self._lock:
            return [self._rows[i].document for i in ids if i in self._rows]

    def count(self, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """How many documents there are, or match."""
        self._check_open()
        with self._lock:
            return len(self._matching(filter))

    def scan(self, filter: AnyFilter | None = None, with_embeddings: bool = False) -> Iterator:  # type: ignore[type-arg]  # noqa: A002
        """Every document that matches, with its embeddings if asked."""
        self._check_open()
        with self._lock:
            rows = [self._rows[i] for i in self._matching(filter)]
        return ((row.document, row.embedding) if with_embeddings else row.document for row in rows)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,  # noqa: A002
    ) -> dict[Head, list[Candidate]]:
        """The best k documents of the dense and of the sparse head."""
        self._check_open()
        with self._lock:
            ids, columns = self._stacked()
            allowed = None if filter is None else set(self._matching(filter))
        if not ids:
            return {head: [] for head in query.heads if head != "multi_vector"}
        kept = [row for row, i in enumerate(ids) if allowed is None or i in allowed]
        scores: dict[Head, np.ndarray] = {}
        if query.dense is not None and columns.dense is not None:
            scores["dense"] = dense_scores(query.dense, columns.dense)[0]
        if query.sparse is not None and columns.sparse is not None:
            scores["sparse"] = sparse_scores(query.sparse, columns.sparse)[0]
            kept_sparse = [row for row in kept if scores["sparse"][row] > 0]
        found: dict[Head, list[Candidate]] = {}
        for head, column in scores.items():
            rows = kept_sparse if head == "sparse" else kept
            best = sorted(rows, key=lambda row: (-column[row], ids[row]))[:k]
            found[head] = [Candidate(ids[row], float(column[row])) for row in best]
        return found

    def score(self, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
        """Exact scores of the given documents."""
        self._check_open()
        with self._lock:
            rows = {i: self._rows[i].embedding for i in dict.fromkeys(ids) if i in self._rows}
        if not rows:
            return {}
        return dict(zip(rows, head_scores(query, M3Output.concatenate(list(rows.values()))), strict=True))

    def drop(self) -> None:
        """Forgets every document and closes the index."""
        with self._lock:
            self._rows.clear()
            self._columns = None
        self.close()

    def close(self) -> None:
        """Any further call raises `ValueError`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            msg = "this index is closed; make a new InMemoryHybridIndex"
            raise ValueError(msg)

    def _digests(self, ids: Sequence[str]) -> dict[str, str]:
        with self._lock:
            return {i: self._rows[i].digest for i in ids if i in self._rows}

    def _write(self, batch: Batch) -> None:
        rows = {
            document.id: _Row(document, digest, batch.embeddings[position])
            for position, (document, digest) in enumerate(zip(batch.documents, batch.digests, strict=True))
        }
        with self._lock:
            self._rows.update(rows)
            self._columns = None

    def _stacked(self) -> tuple[list[str], M3Output]:
        if self._columns is None:
            rows = [
                row.embedding.select([h for h in row.embedding.heads if h != "multi_vector"])
                for row in self._rows.values()
            ]
            self._columns = list(self._rows), M3Output.concatenate(rows) if rows else cast(M3Output, None)
        return self._columns

    def _matching(self, filter: AnyFilter | None) -> list[str]:  # noqa: A002
        if filter is None:
            return list(self._rows)
        if not isinstance(filter, Comparison | And | Or | Not):
            msg = f"the in-memory index takes filters of m3plugins.retrieval.filters, got {type(filter).__name__}"
            raise TypeError(msg)
        tree: Filter = filter
        return [i for i, row in self._rows.items() if matches(tree, row.document.metadata)]
