"""Rows as a database keeps them, and how someone beside the index changes them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from elasticsearch import ApiError, Elasticsearch
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from benchmarks.fixtures import running
from benchmarks.fuzz.edits import Edit
from m3plugins import Document, HybridIndex, M3Encoder
from m3plugins.compression import get_codec
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from m3plugins_elasticsearch.rows import our_fields
from m3plugins_milvus import MilvusHybridIndex
from m3plugins_milvus.schema import BLOCKS_SUFFIX, KEY

Row = dict[str, Any]

BLOCK = "block"
"""The field of the block of token vectors that belongs to a row of Milvus."""


class Refused(Exception):
    """The database does not take such a row."""


class Stored(Protocol):
    """The rows of a few documents.

    Attributes:
        index: Our index over the rows.
        row: The row of the document that is edited.
        binary: Fields that hold bytes in base64.
        unread: Fields that an upsert does not look at, so that their damage need not heal by one.
    """

    index: HybridIndex
    row: Row
    binary: Sequence[str]
    unread: Sequence[str]

    def write(self, row: Row) -> None:
        """Stores an edited row in the place of the document's.

        Raises:
            Refused: If the database refuses it.
        """

    def restore(self) -> None:
        """Stores all rows as they were, and no others."""


def edited(row: Row, edit: Edit) -> Row:
    """The row with one field edited: as JSON, or as the bytes of a string or of base64."""
    field = edit.place.partition("/")[2]
    value = row.get(field)
    if edit.action == "remove":
        return {name: value for name, value in row.items() if name != field}
    if edit.action == "splice":
        return {**row, field: edit.splice(str(value).encode()).decode(errors="replace")}
    if edit.action == "base64":
        try:
            data = base64.b64decode(str(value), validate=True)
        except ValueError:
            return row  # an edit before has broken it
        return {**row, field: base64.b64encode(edit.splice(data)).decode()}
    return {**row, field: edit.tree(value)}


class MilvusRows:
    """Rows of Milvus Lite, with a client beside ours.

    Args:
        documents: The documents, of which the first is edited; each has one block.
        encoder: Encoder of the index.
        uri: Path of Lite's files.
    """

    binary = (BLOCK,)
    unread = (KEY, BLOCK)  # a row of another key is another row

    def __init__(self, documents: Sequence[Document], encoder: M3Encoder, uri: Path) -> None:
        self.index = MilvusHybridIndex.create("docs", encoder=encoder, uri=uri, codec="float16")
        self.index.upsert(documents)
        self._client = MilvusClient(str(uri))
        self._rows, self._blocks = self._all("docs"), self._all(f"docs{BLOCKS_SUFFIX}")
        (row,) = (row for row in self._rows if row["id"] == documents[0].id)
        (self._block,) = (block for block in self._blocks if block[KEY].startswith(row[KEY]))
        sparse = {str(i): weight for i, weight in row["sparse"].items()}
        self.row = {**row, "sparse": sparse, BLOCK: self._block["data"]}

    def write(self, row: Row) -> None:
        """Stores the row, and its block."""
        rows = {name: value for name, value in row.items() if name != BLOCK}
        try:
            if isinstance(row.get("sparse"), Mapping):
                rows["sparse"] = {int(i): weight for i, weight in row["sparse"].items()}
            self._client.upsert("docs", [rows])
            if BLOCK in row:
                self._client.upsert(f"docs{BLOCKS_SUFFIX}", [{**self._block, "data": row[BLOCK]}])
            else:
                self._client.delete(f"docs{BLOCKS_SUFFIX}", ids=[self._block[KEY]])
        except (MilvusException, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise Refused from error

    def restore(self) -> None:
        """Replaces all rows."""
        for name, rows in (("docs", self._rows), (f"docs{BLOCKS_SUFFIX}", self._blocks)):
            self._client.delete(name, filter=f"{KEY} not in {[row[KEY] for row in rows]}")
            self._client.upsert(name, rows)

    def _all(self, name: str) -> list[Row]:
        return [dict(row) for row in self._client.query(name, filter=f'{KEY} != ""', output_fields=["*"])]


class ElasticsearchRows:
    """Rows of Elasticsearch.

    Args:
        documents: The documents, of which the first is edited.
        encoder: Encoder of the index.
        uri: Address of a node.
        name: Name of the index.
    """

    binary = ("sparse_weights", "token_vectors")
    unread = ("text", "sparse_weights", "token_vectors")

    def __init__(self, documents: Sequence[Document], encoder: M3Encoder, uri: str, name: str) -> None:
        self.index = ElasticsearchHybridIndex.create(
            name,
            encoder=encoder,
            uri=uri,
            codec="int8",
            dense_index="flat",
            settings={"index.translog.durability": "async"},  # no write waits for the disk
        )
        self._name, self._client = name, Elasticsearch(uri)
        self._ids = [document.id for document in documents]
        self._rows = [_elasticsearch_row(document, encoder) for document in documents]
        self.row = self._rows[0]
        self.restore()

    def write(self, row: Row) -> None:
        """Stores the row."""
        try:
            self._client.index(index=self._name, id=self._ids[0], document=row, refresh=True)
        except (ApiError, ValueError, TypeError) as error:
            raise Refused from error

    def restore(self) -> None:
        """Replaces all rows."""
        found = [hit["_id"] for hit in self._client.search(index=self._name, source=False, size=100)["hits"]["hits"]]
        operations: list[Row] = [{"delete": {"_id": i}} for i in found if i not in self._ids]
        for i, row in zip(self._ids, self._rows, strict=True):
            operations += [{"index": {"_id": i}}, row]
        self._client.bulk(index=self._name, operations=operations, refresh=True)


def _elasticsearch_row(document: Document, encoder: M3Encoder) -> Row:
    embeddings = encoder.encode_documents([document.content])
    row = our_fields(document, document.digest(), embeddings, get_codec("int8").name)
    own = {name: getattr(document, name) for name in ("title", "text", "parent_id")}
    return {**row, "dense": row["dense"].tolist(), **own, "metadata": dict(document.metadata)}


@contextmanager
def engines(documents: Sequence[Document], encoder: M3Encoder, folder: Path) -> Iterator[dict[str, Stored]]:
    """Opens the engines that there are, by name: Elasticsearch where M3_TEST_ES_ZIP or M3_TEST_ES_URL names one."""
    with ExitStack() as stack:
        found: dict[str, Stored] = {"milvus": MilvusRows(documents, encoder, folder / "m3.db")}
        if os.environ.get("M3_TEST_ES_ZIP") or os.environ.get("M3_TEST_ES_URL"):
            url, _ = stack.enter_context(running())
            found["elasticsearch"] = ElasticsearchRows(documents, encoder, url, f"m3-fuzz-{os.getpid()}")
        try:
            yield found
        finally:
            for stored in found.values():
                stored.index.drop()
