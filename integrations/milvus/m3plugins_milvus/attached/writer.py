"""The `Writer` of a foreign collection."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

from m3plugins import Document
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Digest
from m3plugins.indexing.report import FailedDocument
from m3plugins.indexing.writer import REPLACED, EmbeddedBatch, Writer, is_current
from m3plugins_milvus.attached.expressions import EXPRESSION_LENGTH, among, is_unicode
from m3plugins_milvus.attached.reader import TableReader
from m3plugins_milvus.attached.rows import check_document, to_rows, vector_rows
from m3plugins_milvus.filters import Plan


class TableWriter(Writer[Plan]):
    """Writes documents into a collection that someone else made.

    Args:
        reader: Of the collection.
        lock: That its writers in this process share.
    """

    def __init__(self, reader: TableReader, lock: threading.RLock) -> None:
        self._reader = reader
        self._table = reader.table
        self._schema = reader.table.schema
        self._lock = lock

    def check(self, document: Document) -> None:
        """Raises ValueError for a document that the collection has no place for."""
        check_document(document, self._schema)

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of the stored documents."""
        return self._reader.digests(ids)

    def write(self, batch: EmbeddedBatch) -> list[FailedDocument]:
        """Stores documents; what their rows hold beyond them stays."""
        vectors = vector_rows(batch.embeddings, self._schema)
        with self._lock:
            old = self._table.fetch([document.id for document in batch.documents], self._schema.foreign)
            return self._table.store(to_rows(batch.documents, vectors, old, self._schema))

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> list[FailedDocument]:
        """Stores the documents with the vectors that they have."""
        fields = list(self._schema.fields.heads.values())
        known: Sequence[Digest | None] = expected or [None] * len(documents)
        with self._lock:
            stored = self.digests([document.id for document in documents])
            there = [
                document
                for document, one in zip(documents, known, strict=True)
                if is_current(stored.get(document.id), document.digest(), one)
            ]
            old = self._table.fetch([document.id for document in there], [*self._schema.foreign, *fields])
            there = [document for document in there if document.id in old]
            vectors = [{field: old[document.id][field] for field in fields} for document in there]
            failed = self._table.store(to_rows(there, vectors, old, self._schema))
        gone = {document.id for document in documents} - {document.id for document in there}
        return failed + [FailedDocument(i, REPLACED) for i in gone]

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order."""
        return self._reader.get(ids)

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each document that has one of these parents.

        Raises:
            ValueError: If the collection has no field of it.
        """
        field = self._schema.fields.parent_id
        if field is None:
            msg = "no field of this collection is the parent_id; name it in Fields, or delete by ids or by filter"
            raise ValueError(msg)
        found: dict[str, str] = {}
        for some in bounded_runs(filter(is_unicode, parent_ids), len, EXPRESSION_LENGTH):
            for rows in self._table.matching(Plan(among(field, some)), [field]):
                found |= {i: row[field] for i, row in rows.items()}
        return found

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""
        with self._lock:
            there = list(self._table.fetch(ids, []))
            self._table.delete(there)
        return len(there)

    def remove_matching(self, plan: Plan) -> int:
        """Deletes the documents that match; returns how many there were."""
        return sum(self.remove(list(rows)) for rows in self._table.matching(plan, []))

    def deletion(self) -> AbstractContextManager[object]:
        """Keeps this process' other writers of the collection out."""
        return self._lock

    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        """Nothing: no document here is of several rows."""
        return nullcontext()

    def flush(self) -> None:
        """Indexes what was written, on Lite."""
        with self._lock:
            self._table.flush()

    def drop(self) -> None:
        """Refuses: the collection is not ours.

        Raises:
            ValueError: Always.
        """
        msg = (
            f"the collection {self._table.name!r} is attached, it is not this index's to drop; close the index, and "
            "drop it with MilvusClient if you must"
        )
        raise ValueError(msg)
