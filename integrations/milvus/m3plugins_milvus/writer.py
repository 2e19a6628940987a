"""The `Writer` of an index of ours: two collections, written in the order that survives a crash."""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Digest
from m3plugins.indexing.locking import DocumentLocks
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import REPLACED, EmbeddedBatch, Writer, is_current
from m3plugins_milvus import lifecycle, requests
from m3plugins_milvus.blocks import POINTER, BlockKeys, block_rows, orphans
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.collection import Row
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.rows import (
    UNCHANGED,
    attributes,
    blocks_fault,
    check_document,
    is_own,
    key_of,
    parent_key,
    to_row,
)
from m3plugins_milvus.schema import KEY
from m3plugins_milvus.store import DOCUMENTS_PER_READ, Store, keys_of

PARENTS_PER_READ = 256
LEFT_AT_ONCE = 2 * DOCUMENTS_PER_READ
"""More documents than one interrupted call leaves without a row."""


@dataclass(frozen=True)
class MilvusWriter(Writer[Plan]):
    """Writes documents and their blocks.

    Attributes:
        store: The two collections.
        lock: What the writers of the collection share.
        locks: What those that replace documents of several rows share; taken ahead of `lock`.
    """

    store: Store
    lock: RLock
    locks: DocumentLocks

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored whole."""
        return self.store.digests(ids)

    def check(self, document: Document) -> None:
        """Refuses what Milvus could not keep; see `check_document`."""
        check_document(document, self.store.identity.tenant)

    def write(self, batch: EmbeddedBatch) -> None:
        """Stores documents: new blocks, then the rows that name them, then away with the old blocks."""
        with self.lock:
            replaced = self.store.documents.fetch(keys_of([document.id for document in batch.documents]), POINTER)
            rows: list[Row] = []
            self.store.blocks.upsert(self._block_rows(batch, rows))
            self.store.documents.upsert(rows)
            current = {block for row in rows for block in BlockKeys.of(row).all()}
            before = self.store.blocks_of(replaced.values())
            self.store.blocks.delete([block for block in before if block not in current])

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> list[FailedDocument]:
        """Stores new metadata and parents; embeddings, texts and blocks stay.

        The comparison holds among the writers of one process: Milvus has no write on a condition.
        """
        fields = (*UNCHANGED, "attributes", *(["content"] if self.store.identity.bm25 is not None else []))
        known: Sequence[Digest | None] = expected or [None] * len(digests)
        with self.lock:
            kept = self.store.documents.fetch(keys_of([d.id for d in documents]), fields, DOCUMENTS_PER_READ)
            stored = {row["id"]: Digest(row["revision"], row["attributes"]) for row in kept.values()}
            there = [
                (document, digest)
                for document, digest, one in zip(documents, digests, known, strict=True)
                if is_current(stored.get(document.id), digest, one)
            ]
            self.store.documents.upsert(
                {**kept[key_of(document.id)], **attributes(document, digest, self.store.identity)}
                for document, digest in there
            )
        gone = {document.id for document in documents} - {document.id for document, _ in there}
        return [FailedDocument(i, REPLACED) for i in gone]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order."""
        return self.store.get(ids)

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each stored document that has one of these parents and can be found by it."""
        found: dict[str, str] = {}
        for group in bounded_runs(dict.fromkeys(parent_ids), lambda i: 1, PARENTS_PER_READ):
            owners = {parent_key(i): i for i in group}
            for page in self.store.documents.keys(requests.among(list(owners), "parent_key")):
                rows = self.store.documents.fetch(page, ["id", "parent_key"]).values()
                found |= {row["id"]: owners[row["parent_key"]] for row in rows if is_own(row)}
        return found

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""
        with self.lock:
            return self.remove_rows(self.store.documents.fetch(keys_of(ids), POINTER).values())

    def remove_rows(self, rows: Iterable[Row]) -> int:
        """Deletes documents, given rows with the fields POINTER, and then their blocks; returns how many."""
        removed = 0
        with self.lock:
            for some in bounded_runs(rows, lambda row: 1, DOCUMENTS_PER_READ):  # what one interruption may leave
                self.store.documents.delete([row[KEY] for row in some])
                self.store.blocks.delete(self.store.blocks_of(some))
                removed += len(some)
        return removed

    def remove_matching(self, plan: Plan) -> int:
        """Deletes the documents that match; returns how many there were."""
        return sum(self.remove_rows(rows.values()) for rows in self.store.matching(plan, POINTER))

    def deletion(self) -> AbstractContextManager[object]:
        """Keeps this process' other writers of the collection out."""
        return self.lock

    def holding(self, ids: Ids[str]) -> AbstractContextManager[None]:
        """Keeps this process' other threads from replacing these documents."""
        return self.locks.holding(ids)

    def flush(self) -> None:
        """Makes what was written fast to read; see `Collection.flush`. Lite has no lock between it and a write."""
        with self.lock:
            self.store.documents.flush()
            self.store.blocks.flush()

    def drop(self) -> None:
        """Deletes both collections."""
        lifecycle.drop(self.store.documents, self.store.blocks)

    def sweep(self, *, force: bool = False) -> int:
        """Deletes the blocks that no row names, returns how many; see `MilvusHybridIndex.sweep`."""
        documents, blocks = self.store.documents, self.store.blocks
        doomed: list[str] = []
        living, gone = 0, 0
        for page in blocks.keys():
            keys = [key for key in page if ":" in key]
            owners = list(dict.fromkeys(key.partition(":")[0] for key in keys))
            rows = documents.fetch(owners, POINTER)
            living, gone = living + len(rows), gone + len(owners) - len(rows)
            damaged = {key for key, row in rows.items() if blocks_fault(row)}  # which blocks are theirs, nobody knows
            sure = {key: row for key, row in rows.items() if key not in damaged}
            doomed += orphans([key for key in keys if key.partition(":")[0] not in damaged], sure)
        if gone > living + LEFT_AT_ONCE and not force:
            msg = (
                f"{blocks.name!r} holds token vectors of {gone:,} documents that {documents.name!r} does not "
                f"have, and of {living:,} that it has: an interrupted call leaves fewer, a loss of rows may not. "
                f"Compare count() with what you indexed; sweep(force=True) deletes them all the same"
            )
            raise MilvusIndexError(msg)
        blocks.delete(doomed)
        return len(doomed)

    def _block_rows(self, batch: EmbeddedBatch, rows: list[Row]) -> Iterator[Row]:
        """The batch's blocks, one document at a time; adds each document's row to `rows`."""
        multi_vector = batch.embeddings.multi_vector
        assert multi_vector is not None  # ingest stores all heads
        for position in range(len(batch.documents)):
            vectors = get_codec(self.store.identity.codec).encode(multi_vector[position])
            row, text = to_row(batch, position, vectors, self.store.identity)
            rows.append(row)
            yield from block_rows(BlockKeys.of(row), vectors, text)
