"""The two collections together: writes in the order that survives a crash, reads that notice a race."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.retrieval.ingest import Batch
from m3plugins_milvus.blocks import POINTER, BlockKeys, block_rows, orphans
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.collection import Collection, Row
from m3plugins_milvus.rows import key_of, to_row
from m3plugins_milvus.schema import KEY

BLOCKS_PER_READ = 256


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
    """Documents and blocks.

    Attributes:
        documents: One row a document, the commit point.
        blocks: Their token vectors and long texts.
        codec: Name of the codec of the token vectors.
    """

    documents: Collection
    blocks: Collection
    codec: str

    def write(self, batch: Batch) -> None:
        """Stores documents: new blocks, then the rows that name them, then away with the old blocks."""
        replaced = self.documents.fetch([key_of(document.id) for document in batch.documents], POINTER)
        rows: list[Row] = []
        self.blocks.upsert(self._block_rows(batch, rows))
        self.documents.upsert(rows)
        current = {block for row in rows for block in BlockKeys.of(row).all()}
        self.blocks.delete([b for row in replaced.values() for b in BlockKeys.of(row).all() if b not in current])

    def remove(self, rows: Iterable[Row]) -> None:
        """Deletes documents, given rows with the fields POINTER, and then their blocks."""
        rows = list(rows)
        self.documents.delete([row[KEY] for row in rows])
        self.blocks.delete([block for row in rows for block in BlockKeys.of(row).all()])

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
            MilvusIndexError: If a document's blocks are not there.
        """
        if not attempts:
            ids = ", ".join(repr(row["id"]) for row in rows.values())
            msg = f"the token vectors or the text of {ids[:200]} are lost in Milvus; delete and index them again"
            raise MilvusIndexError(msg)
        lost = []

        def blocks_of(row: Row) -> int:
            return int(vectors * row["vector_blocks"] + text * row["text_blocks"])

        for group in bounded_runs(rows.values(), blocks_of, BLOCKS_PER_READ):
            keys = {row[KEY]: _keys(row, vectors, text) for row in group}
            data = self.blocks.fetch([key for some in keys.values() for key in some.all()], ["data"], BLOCKS_PER_READ)
            for row in group:
                own = keys[row[KEY]]
                if all(key in data for key in own.all()):
                    yield Complete(row, [data[k]["data"] for k in own.vectors], [data[k]["data"] for k in own.text])
                else:
                    lost.append(row)
        if again := self.documents.fetch([row[KEY] for row in lost], fields):
            yield from self.complete(again, fields, vectors=vectors, text=text, attempts=attempts - 1)

    def flush(self) -> None:
        """Makes what was written fast to read; see `Collection.flush`."""
        self.documents.flush()
        self.blocks.flush()

    def sweep(self) -> int:
        """Deletes the blocks that no row names, returns how many."""
        swept = 0
        for page in self.blocks.keys():
            blocks = [key for key in page if ":" in key]
            owners = list(dict.fromkeys(key.partition(":")[0] for key in blocks))
            doomed = orphans(blocks, self.documents.fetch(owners, POINTER))
            self.blocks.delete(doomed)
            swept += len(doomed)
        return swept

    def _block_rows(self, batch: Batch, rows: list[Row]) -> Iterator[Row]:
        """The batch's blocks, one document at a time; adds each document's row to `rows`."""
        multi_vector = batch.embeddings.multi_vector
        assert multi_vector is not None  # ingest stores all heads
        for position in range(len(batch.documents)):
            vectors = get_codec(self.codec).encode(multi_vector[position])
            row, text = to_row(batch, position, vectors)
            rows.append(row)
            yield from block_rows(BlockKeys.of(row), vectors, text)


def _keys(row: Row, vectors: bool, text: bool) -> BlockKeys:
    keys = BlockKeys.of(row)
    return BlockKeys(keys.vectors if vectors else [], keys.text if text else [])
