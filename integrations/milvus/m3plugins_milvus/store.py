"""The two collections of an index together: rows with their blocks, read so that a race or a loss is noticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from m3plugins import Document
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Digest
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.report import FailedDocument
from m3plugins_milvus.blocks import BlockKeys
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.collection import Collection, Row
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.requests import MAX_KEYS
from m3plugins_milvus.rows import AGAIN, COMPARED, DOCUMENT, blocks_fault, is_hash, key_of, row_fault, to_document
from m3plugins_milvus.schema import KEY

BLOCKS_PER_READ = 64
DOCUMENTS_PER_READ = 128

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
    """Documents and their blocks.

    Attributes:
        documents: One row a document, the commit point.
        blocks: Their token vectors and long texts.
        identity: What the index is.
    """

    documents: Collection
    blocks: Collection
    identity: Identity

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order; unknown ids are left out."""
        rows = self.documents.fetch(keys_of(ids), DOCUMENT, DOCUMENTS_PER_READ)
        found = {done.row["id"]: to_document(done.row, done.text) for done in self.complete(rows, DOCUMENT, text=True)}
        return [found[i] for i in ids if i in found]

    def digests(self, ids: Sequence[str], attempts: int = 3) -> dict[str, Digest]:
        """The digests of those of the given ids that are stored whole: what cannot be read has to be written again.

        Args:
            ids: Of documents.
            attempts: How often to look for blocks: those of a document that is being replaced go with its row.
        """
        rows = self.documents.fetch(keys_of(ids), COMPARED)
        sound = [row for row in rows.values() if not row_fault(row)]
        there = set(self.blocks.fetch(self.blocks_of(sound), []))
        whole = [row for row in sound if there.issuperset(BlockKeys.of(row).all())]
        found = {row["id"]: Digest(row["revision"], row["attributes"]) for row in whole}
        lost = [row["id"] for row in sound if row["id"] not in found]
        return found | self.digests(lost, attempts - 1) if lost and attempts > 1 else found

    def matching(self, plan: Plan, fields: Iterable[str]) -> Iterator[dict[str, Row]]:
        """Yields the rows that match, in small groups by key, with the given fields."""
        wanted = list(dict.fromkeys([*fields, "metadata"] if plan.check else fields))
        for page in self.documents.keys(plan.expression):
            for start in range(0, len(page), DOCUMENTS_PER_READ):
                rows = self.documents.fetch(page[start : start + DOCUMENTS_PER_READ], wanted)
                yield {key: row for key, row in rows.items() if plan.accepts(row.get("metadata", {}))}

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

        def count(row: Row) -> int:
            return int(vectors * row["vector_blocks"] + text * row["text_blocks"])

        for group in bounded_runs(sound, count, BLOCKS_PER_READ):
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

    def blocks_of(self, rows: Iterable[Row]) -> list[str]:
        """The blocks that rows name; where their number is damaged, or may be, those of them that there are."""
        found: list[str] = []
        for row in rows:
            if not blocks_fault(row) and row["vector_blocks"] + row["text_blocks"] <= MAX_KEYS:
                found += BlockKeys.of(row).all()
            elif is_hash(row[KEY]) and is_hash(row["revision"]):
                found += [key for page in self.blocks.keys(prefix=f"{row[KEY]}:{row['revision']}:") for key in page]
        return found

    def _data(self, keys: Sequence[str]) -> dict[str, Row]:
        """These blocks, of one document or few of them, up to a lost one: a damaged row may name very many."""
        data: dict[str, Row] = {}
        for some in bounded_runs(keys, lambda key: 1, BLOCKS_PER_READ):
            found = self.blocks.fetch(some, ["data"])
            data |= found
            if len(found) < len(some):
                break
        return data


def faults(rows: Mapping[str, Row]) -> list[FailedDocument]:
    """The documents whose rows are none that we write, with the reasons."""
    return [FailedDocument(row["id"], fault) for row in rows.values() if (fault := row_fault(row))]


def keys_of(ids: Sequence[str]) -> list[str]:
    """Returns the distinct keys of these ids."""
    return [key_of(i) for i in dict.fromkeys(ids)]


def _keys(row: Row, vectors: bool, text: bool) -> BlockKeys:
    keys = BlockKeys.of(row)
    return BlockKeys(keys.vectors if vectors else [], keys.text if text else [])
