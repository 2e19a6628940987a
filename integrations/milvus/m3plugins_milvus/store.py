"""The two collections together: writes in the order that survives a crash, reads that notice a race."""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.arguments import check_ids
from m3plugins.indexing.document import Digest
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.locking import DocumentLocks
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import REPLACED, Batch, is_current
from m3plugins_milvus import requests
from m3plugins_milvus.blocks import POINTER, BlockKeys, block_rows, orphans
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.collection import Collection, Row
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.requests import MAX_KEYS
from m3plugins_milvus.rows import (
    AGAIN,
    COMPARED,
    DOCUMENT,
    UNCHANGED,
    attributes,
    blocks_fault,
    check_document,
    is_hash,
    is_own,
    key_of,
    parent_key,
    row_fault,
    to_document,
    to_row,
)
from m3plugins_milvus.schema import KEY

BLOCKS_PER_READ = 64
DOCUMENTS_PER_READ = 128
PARENTS_PER_READ = 256
LEFT_AT_ONCE = 2 * DOCUMENTS_PER_READ
"""More documents than one interrupted call leaves without a row."""


LOST = f"its token vectors or its text are lost in Milvus; {AGAIN}"


class LostBlocksError(MilvusIndexError, BrokenDocumentsError):
    """Documents whose blocks are not there, or not as they were written."""


@dataclass(frozen=True)
class Complete:
    """A row with the data of its blocks.

    Attributes:
        row: Of the documents' collection.
        vectors: The blocks of its token vectors, if they were asked for.
        text: The blocks of the rest of its text, if they were asked for.
    """

    row: Row
    vectors: list[str]
    text: list[str]


@dataclass(frozen=True)
class Store:
    """Documents and blocks: the `Writer` of this engine.

    Attributes:
        documents: One row a document, the commit point.
        blocks: Their token vectors and long texts.
        identity: What the index is.
        lock: What the writers of the collection share.
        locks: What those that replace documents of several rows share; taken ahead of `lock`.
    """

    documents: Collection
    blocks: Collection
    identity: Identity
    lock: RLock
    locks: DocumentLocks

    def check(self, document: Document) -> None:
        """Refuses what Milvus could not keep; see `check_document`."""
        check_document(document, self.identity.tenant)

    def digests(self, ids: Sequence[str], attempts: int = 3) -> dict[str, Digest]:
        """The digests of those of the given ids that are stored whole: what cannot be read has to be written again.

        Args:
            ids: Of documents.
            attempts: How often to look for blocks: those of a document that is being replaced go with its row.
        """
        rows = self.documents.fetch(keys_of(ids), COMPARED)
        sound = [row for row in rows.values() if not row_fault(row)]
        there = set(self.blocks.fetch(self._blocks_of(sound), []))
        whole = [row for row in sound if there.issuperset(BlockKeys.of(row).all())]
        found = {row["id"]: Digest(row["revision"], row["attributes"]) for row in whole}
        lost = [row["id"] for row in sound if row["id"] not in found]
        return found | self.digests(lost, attempts - 1) if lost and attempts > 1 else found

    def write(self, batch: Batch) -> None:
        """Stores documents: new blocks, then the rows that name them, then away with the old blocks."""
        with self.lock:
            replaced = self.documents.fetch(keys_of([document.id for document in batch.documents]), POINTER)
            rows: list[Row] = []
            self.blocks.upsert(self._block_rows(batch, rows))
            self.documents.upsert(rows)
            current = {block for row in rows for block in BlockKeys.of(row).all()}
            self.blocks.delete([block for block in self._blocks_of(replaced.values()) if block not in current])

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> list[FailedDocument]:
        """Stores new metadata and parents; embeddings, texts and blocks stay.

        The comparison holds among the writers of one process: Milvus has no write on a condition.
        """
        fields = (*UNCHANGED, "attributes", *(["content"] if self.identity.bm25 is not None else []))
        known: Sequence[Digest | None] = expected or [None] * len(digests)
        with self.lock:
            kept = self.documents.fetch(keys_of([d.id for d in documents]), fields, DOCUMENTS_PER_READ)
            stored = {row["id"]: Digest(row["revision"], row["attributes"]) for row in kept.values()}
            there = [
                (document, digest)
                for document, digest, one in zip(documents, digests, known, strict=True)
                if is_current(stored.get(document.id), digest, one)
            ]
            self.documents.upsert(
                {**kept[key_of(document.id)], **attributes(document, digest, self.identity)}
                for document, digest in there
            )
        gone = {document.id for document in documents} - {document.id for document, _ in there}
        return [FailedDocument(i, REPLACED) for i in gone]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""
        rows = self.documents.fetch(keys_of(ids), DOCUMENT, DOCUMENTS_PER_READ)
        found = {done.row["id"]: to_document(done.row, done.text) for done in self.complete(rows, DOCUMENT, text=True)}
        return [found[i] for i in check_ids(ids) if i in found]

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each stored document that has one of these parents and can be found by it."""
        found: dict[str, str] = {}
        for group in bounded_runs(dict.fromkeys(parent_ids), lambda i: 1, PARENTS_PER_READ):
            owners = {parent_key(i): i for i in group}
            for page in self.documents.keys(requests.among(list(owners), "parent_key")):
                rows = self.documents.fetch(page, ["id", "parent_key"]).values()
                found |= {row["id"]: owners[row["parent_key"]] for row in rows if is_own(row)}
        return found

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""
        with self.lock:
            return self.remove_rows(self.documents.fetch(keys_of(ids), POINTER).values())

    def remove_rows(self, rows: Iterable[Row]) -> int:
        """Deletes documents, given rows with the fields POINTER, and then their blocks; returns how many."""
        removed = 0
        with self.lock:
            for some in bounded_runs(rows, lambda row: 1, DOCUMENTS_PER_READ):  # what one interruption may leave
                self.documents.delete([row[KEY] for row in some])
                self.blocks.delete(self._blocks_of(some))
                removed += len(some)
        return removed

    def holding(self, ids: Ids[str]) -> AbstractContextManager[None]:
        """Keeps this process' other threads from replacing these documents."""
        return self.locks.holding(ids)

    def complete(
        self,
        rows: Mapping[str, Row],
        fields: Sequence[str],
        *,
        vectors: bool = False,
        text: bool = False,
        attempts: int = 3,
    ) -> Iterator[Complete]:
        """The rows with their blocks, in bounded memory.

        A document replaced since its row was read has lost its blocks: its row is read again. One deleted
        in between is left out.

        Args:
            rows: Rows by key, with the given fields, POINTER among them.
            fields: What to read again.
            vectors: Whether to read the blocks of token vectors.
            text: Whether to read the blocks of text.
            attempts: How often to look for blocks.

        Raises:
            LostBlocksError: At the end, if a document's blocks are not there, or its row is none of ours.
        """
        if not attempts:
            raise LostBlocksError([FailedDocument(row["id"], LOST) for row in rows.values()])
        lost, broken = [], faults(rows)
        sound = [row for row in rows.values() if not row_fault(row)]

        def blocks_of(row: Row) -> int:
            return int(vectors * row["vector_blocks"] + text * row["text_blocks"])

        for group in bounded_runs(sound, blocks_of, BLOCKS_PER_READ):
            keys = {row[KEY]: _keys(row, vectors, text) for row in group}
            data = self._data([key for some in keys.values() for key in some.all()])
            for row in group:
                own = keys[row[KEY]]
                if all(key in data for key in own.all()):
                    yield Complete(row, [data[k]["data"] for k in own.vectors], [data[k]["data"] for k in own.text])
                else:
                    lost.append(row)
        if again := self.documents.fetch([row[KEY] for row in lost], fields):
            try:
                yield from self.complete(again, fields, vectors=vectors, text=text, attempts=attempts - 1)
            except LostBlocksError as err:
                broken += err.failed
        if broken:
            raise LostBlocksError(broken)

    def flush(self) -> None:
        """Makes what was written fast to read; see `Collection.flush`. Lite has no lock between it and a write."""
        with self.lock:
            self.documents.flush()
            self.blocks.flush()

    def sweep(self, *, force: bool = False) -> int:
        """Deletes the blocks that no row names, returns how many; see `MilvusHybridIndex.sweep`."""
        doomed: list[str] = []
        living, gone = 0, 0
        for page in self.blocks.keys():
            blocks = [key for key in page if ":" in key]
            owners = list(dict.fromkeys(key.partition(":")[0] for key in blocks))
            rows = self.documents.fetch(owners, POINTER)
            living, gone = living + len(rows), gone + len(owners) - len(rows)
            damaged = {key for key, row in rows.items() if blocks_fault(row)}  # which blocks are theirs, nobody knows
            sure = {key: row for key, row in rows.items() if key not in damaged}
            doomed += orphans([key for key in blocks if key.partition(":")[0] not in damaged], sure)
        if gone > living + LEFT_AT_ONCE and not force:
            msg = (
                f"{self.blocks.name!r} holds token vectors of {gone:,} documents that {self.documents.name!r} does not "
                f"have, and of {living:,} that it has: an interrupted call leaves fewer, a loss of rows may not. "
                f"Compare count() with what you indexed; sweep(force=True) deletes them all the same"
            )
            raise MilvusIndexError(msg)
        self.blocks.delete(doomed)
        return len(doomed)

    def _data(self, keys: Sequence[str]) -> dict[str, Row]:
        """These blocks, of one document or few of them, up to a lost one: a damaged row may name very many."""
        data: dict[str, Row] = {}
        for some in bounded_runs(keys, lambda key: 1, BLOCKS_PER_READ):
            found = self.blocks.fetch(some, ["data"])
            data |= found
            if len(found) < len(some):
                break
        return data

    def _blocks_of(self, rows: Iterable[Row]) -> list[str]:
        """The blocks that rows name; where their number is damaged, or may be, those of them that there are."""
        found: list[str] = []
        for row in rows:
            if not blocks_fault(row) and row["vector_blocks"] + row["text_blocks"] <= MAX_KEYS:
                found += BlockKeys.of(row).all()
            elif is_hash(row[KEY]) and is_hash(row["revision"]):
                found += [key for page in self.blocks.keys(prefix=f"{row[KEY]}:{row['revision']}:") for key in page]
        return found

    def _block_rows(self, batch: Batch, rows: list[Row]) -> Iterator[Row]:
        """The batch's blocks, one document at a time; adds each document's row to `rows`."""
        multi_vector = batch.embeddings.multi_vector
        assert multi_vector is not None  # ingest stores all heads
        for position in range(len(batch.documents)):
            vectors = get_codec(self.identity.codec).encode(multi_vector[position])
            row, text = to_row(batch, position, vectors, self.identity)
            rows.append(row)
            yield from block_rows(BlockKeys.of(row), vectors, text)


def faults(rows: Mapping[str, Row]) -> list[FailedDocument]:
    """The documents whose rows are none that we write, with the reasons."""
    return [FailedDocument(row["id"], fault) for row in rows.values() if (fault := row_fault(row))]


def keys_of(ids: Sequence[str]) -> list[str]:
    """The distinct keys of these ids.

    Raises:
        TypeError: If `ids` is not a sequence of strings.
    """
    return [key_of(i) for i in check_ids(ids)]


def _keys(row: Row, vectors: bool, text: bool) -> BlockKeys:
    keys = BlockKeys.of(row)
    return BlockKeys(keys.vectors if vectors else [], keys.text if text else [])
