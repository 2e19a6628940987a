"""`AttachedIndex`: a `HybridIndex` on a collection that is not ours."""

from __future__ import annotations

from pathlib import Path

from m3plugins import HybridIndex, M3Encoder
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins.indexing.identity import Identity
from m3plugins_milvus.address import is_server
from m3plugins_milvus.attached.fields import Fields, find, inspect
from m3plugins_milvus.attached.reader import TableReader
from m3plugins_milvus.attached.table import Table
from m3plugins_milvus.attached.verify import check_model
from m3plugins_milvus.attached.writer import TableWriter
from m3plugins_milvus.client import Connection, connect, lite_path, writer_lock


class AttachedIndex(HybridIndex):
    """A `HybridIndex` on a collection that someone else made and filled; get one with `attach`.

    What the collection does not store (multi-vectors, or a head that it lacks) is computed from the texts in
    question whenever it is asked for, and the last results are kept: rerank few candidates, on a fast device. A scan
    with embeddings encodes every text. Where only stored heads are read, nothing says how many tokens a text has:
    `token_counts` are 0.

    Metadata are the other fields of a row, dynamic ones included, or what one JSON field holds. Native
    filters are Milvus expressions over the collection's fields; neutral filters are decided on the metadata
    in Python, which reads many rows where a filter accepts few.

    `upsert` writes the named fields and the metadata; whatever else a row holds stays. A document that
    lacks a field which the collection requires fails alone, with Milvus' reason. Such a collection has no BM25 that
    could be told to be right, and is not this index's to drop.

    Example:
        >>> fields = Fields(id="pk", text="body", dense="dense_vector", sparse="sparse_vector")
        >>> index = AttachedIndex.attach(
        ...     "theirs", encoder=encoder, uri="http://localhost:19530", fields=fields
        ... )  # doctest: +SKIP
    """

    _reopen = "attach it again with AttachedIndex.attach"

    def __init__(self, table: Table, encoder: M3Encoder, cache_bytes: int) -> None:
        """Use `attach`."""
        lock = writer_lock(table.connection, table.name)
        reader = TableReader(table, encoder, lock, cache_bytes)
        super().__init__(reader, TableWriter(reader, lock), encoder=encoder, identity=Identity.of(encoder))

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | Path,
        fields: Fields,
        token: str | None = None,
        verify: int = 8,
        cache_bytes: int = 1 << 28,
    ) -> AttachedIndex:
        """Checks that a collection is what `fields` says, and loads it.

        Args:
            name: Of the collection, or an alias of it.
            encoder: With the model that made its vectors.
            uri: A path that ends in `.db` (Milvus Lite), or a server's URL.
            fields: Which field is what.
            token: The server's API key, or "user:password".
            verify: Stored texts to encode again and compare with their vectors; 0 trusts the caller.
            cache_bytes: Memory for computed embeddings.

        Raises:
            IndexNotFoundError: If there is no such collection.
            ValueError: If a field is missing or of a wrong type, or a vector has no index, or a wrong one.
            ModelMismatchError: If the vectors are not the encoder's.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        if not is_server(uri) and not Path(lite_path(uri)).exists():
            msg = f"there is no Milvus Lite file {str(uri)!r} to look for {name!r} in; check the path"
            raise IndexNotFoundError(msg)  # connecting would make an empty one
        connection = connect(uri, token)
        try:
            table = _table(connection, name, fields, encoder)
            table.load()
            if verify:
                check_model(table, encoder, verify)
            return cls(table, encoder, cache_bytes)
        except BaseException:
            connection.close()
            raise


def _table(connection: Connection, name: str, fields: Fields, encoder: M3Encoder) -> Table:
    described = find(connection, name)
    return Table(connection, described["collection_name"], inspect(connection, described, fields, encoder))
