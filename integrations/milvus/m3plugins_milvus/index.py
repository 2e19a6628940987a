"""`MilvusHybridIndex`: the three heads of M3 in Milvus Lite or on a Milvus server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3plugins import M3Encoder
from m3plugins.compression import DEFAULT_CODEC
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.locking import shared_locks
from m3plugins.indexing.named_index import NamedIndex, opened_or_created
from m3plugins_milvus import checks, lifecycle
from m3plugins_milvus.address import is_server
from m3plugins_milvus.client import Connection, connect, lite_path, writer_lock
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.reader import REOPEN, MilvusReader
from m3plugins_milvus.requests import Consistency
from m3plugins_milvus.schema import BLOCKS_SUFFIX
from m3plugins_milvus.store import Store
from m3plugins_milvus.writer import MilvusWriter

if TYPE_CHECKING:
    from m3plugins.cli.checks import Check


class MilvusHybridIndex(NamedIndex):
    """A `HybridIndex` in Milvus; make one with `create`, `open` or `open_or_create`.

    Native filters are expressions in Milvus' own language over the fields `id`, `title`, `text`,
    `parent_id` and `metadata` (`'metadata["year"] > 2020'`).

    Example:
        >>> index = MilvusHybridIndex.create("docs", encoder=encoder, uri="./m3.db")  # doctest: +SKIP
        >>> index.upsert([Document(id="a", text="…")]).written  # doctest: +SKIP
        1
    """

    default_uri = "m3.db"
    _reopen = REOPEN
    _identity: Identity
    _writer: MilvusWriter

    def __init__(
        self, connection: Connection, name: str, identity: Identity, encoder: M3Encoder, consistency: Consistency
    ) -> None:
        """Use `create` or `open`."""
        store = Store(Collection(connection, name), Collection(connection, name + BLOCKS_SUFFIX), identity)
        lock = writer_lock(connection, name)
        writer = MilvusWriter(store, lock, shared_locks("milvus", connection.uri, name))
        super().__init__(MilvusReader(store, lock, consistency), writer, encoder=encoder, identity=identity)
        self._store = store
        self._connection = connection
        self._consistency = consistency

    @classmethod
    def checks(cls, uri: str = "", token: str | None = None, *, repair: bool = False) -> Iterator[Check]:
        """Lines of `m3 doctor`: the packages, and with an address its files or its server; see `checks.checks`."""
        return checks.checks(uri, token, repair=repair)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | Path,
        token: str | None = None,
        codec: str = DEFAULT_CODEC,
        dense_index: Mapping[str, Any] | None = None,
        passages: Passages | None = None,
        tenant: str | None = None,
        bm25: str | Mapping[str, Any] | None = None,
        consistency: Consistency = "Strong",
    ) -> MilvusHybridIndex:
        """Makes a new, empty index.

        Args:
            name: Of the collection; a second one, `{name}__mv`, holds the token vectors.
            encoder: Encodes the documents, and the queries.
            uri: A path that ends in `.db` (Milvus Lite), or a server's URL
                (`https://host:19530/database`).
            token: The server's API key, or "user:password".
            codec: How token vectors are stored: "binary" (1 bit a dimension), "int8" or "float16".
            dense_index: `index_type` and `params` of the dense index; FLAT (exact) by default.
            passages: How to cut documents into what is stored and found; None stores them as they are.
            tenant: A metadata field that every document has, by which Milvus partitions the documents:
                a filter with `eq` or `in_` on it reads only the partitions in question.
            bm25: For Milvus' own full-text search as a fourth signal (`HybridWeights(bm25=...)`): a tokenizer
                ("standard", "jieba", ...) or Milvus' analyzer parameters. It reads the first 65,535
                bytes of title and text; its statistics are those of a segment.
            consistency: Of `candidates` on a server. Below "Strong" a search is faster on a busy server and may
                miss what was written a moment ago. Everything else is read strongly.

        Raises:
            IndexExistsError: If there is a collection of that name.
            ValueError: If an option is not possible.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        identity = Identity.asked(
            encoder, codec=codec, dense_index=dense_index, passages=passages, tenant=tenant, bm25=bm25
        )
        return cls._create(connect(uri, token), name, identity, encoder, consistency)

    @classmethod
    def _create(
        cls, connection: Connection, name: str, identity: Identity, encoder: M3Encoder, consistency: Consistency
    ) -> MilvusHybridIndex:
        try:
            lifecycle.create(connection, name, identity)
            return cls(connection, name, identity, encoder, consistency)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | Path,
        token: str | None = None,
        consistency: Consistency = "Strong",
    ) -> MilvusHybridIndex:
        """Opens an index that `create` made.

        Args:
            name: Of the collection, or an alias of it. The index stays with the collection that the
                alias names now; `name` tells which that is.
            encoder: With the model that the index was made with.
            uri: A path that ends in `.db` (Milvus Lite), or a server's URL.
            token: The server's API key, or "user:password".
            consistency: Of `candidates` on a server, as in `create`.

        Raises:
            IndexNotFoundError: If there is no such index.
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If the collection is not of ours.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        return cls._open(_connect_to(name, uri, token), name, encoder, consistency)

    @classmethod
    def _open(
        cls, connection: Connection, name: str, encoder: M3Encoder, consistency: Consistency
    ) -> MilvusHybridIndex:
        try:
            name, identity = lifecycle.open(connection, name)
            identity.check(encoder, name)
            return cls(connection, name, identity, encoder, consistency)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_or_create(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | Path,
        token: str | None = None,
        codec: str | None = None,
        dense_index: Mapping[str, Any] | None = None,
        passages: Passages | None = None,
        tenant: str | None = None,
        bm25: str | Mapping[str, Any] | None = None,
        consistency: Consistency = "Strong",
    ) -> MilvusHybridIndex:
        """Opens an index if it is there, and makes it otherwise, whoever else does so at the same time.

        The arguments are those of `open` and of `create`. An option that is None is what the index has, or the
        default of `create`.

        On a server, two processes that both find what a killed one left in part may remove each other's index; the
        one whose index is gone then raises `MilvusIndexError`, and may call again.

        Raises:
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If it has another option than one that is given, or the collection is not of ours.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        options = {"dense_index": dense_index, "passages": passages, "tenant": tenant, "bm25": bm25, "codec": codec}
        given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
        asked = Identity.asked(encoder, **given)
        there: dict[str, Any] = {"encoder": encoder, "uri": uri, "token": token, "consistency": consistency}
        index = opened_or_created(partial(cls.open, name, **there), partial(cls.create, name, **there, **given))
        return index._checked(asked, given)

    @classmethod
    def list_indexes(cls, *, uri: str | Path, token: str | None = None) -> list[str]:
        """The names of the indexes that `create` made, sorted; a path where there is no file has none.

        Raises:
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        if not _is_there(uri):
            return []
        with closing(connect(uri, token)) as connection:
            return lifecycle.names(connection)

    @classmethod
    def describe_index(cls, name: str, *, uri: str | Path, token: str | None = None) -> IndexInfo:
        """What `describe` says of an index, without its model.

        Raises:
            IndexNotFoundError: If there is no such index.
            ValueError: If the collection is not of ours.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        with closing(_connect_to(name, uri, token)) as connection:
            return lifecycle.describe(connection, *lifecycle.open(connection, name))

    @classmethod
    def drop_index(cls, name: str, *, uri: str | Path, token: str | None = None) -> None:
        """Deletes an index and all in it, without its model.

        Raises:
            IndexNotFoundError: If there is no such index.
            ValueError: If the collection is not of ours, or an alias points at it.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        with closing(_connect_to(name, uri, token)) as connection:
            lifecycle.drop_named(connection, name)

    def describe(self) -> IndexInfo:
        """Tells what made the index, how it keeps documents, and how many."""
        self._check_open()
        return lifecycle.describe(self._connection, self.name, self._identity)

    def swap(self, alias: str) -> str | None:
        """Points an alias at this index, in one step, and returns the collection that it pointed at (None: none).

        Indexes that were opened by the alias before stay with their collection until they are opened again.

        Raises:
            ValueError: If `alias` is the name of a collection.
        """
        self._check_open()
        return lifecycle.swap(self._store.documents, alias)

    def sweep(self, *, force: bool = False) -> int:
        """Deletes the blocks that an interrupted `upsert` or `delete` left behind; returns how many.

        For space only: answers are right without. No other process may write meanwhile.

        Args:
            force: Whether to delete them also where more documents have lost their row than have one.

        Raises:
            MilvusIndexError: If they have, and `force` is not set: that may be a loss of rows, and nothing is deleted.
        """
        self._check_open()
        with self._writer.lock:
            return self._writer.sweep(force=force)

    def _open_beside(self, name: str, encoder: M3Encoder) -> MilvusHybridIndex:
        return self._open(self._connect_again(), name, encoder, self._consistency)

    def _create_beside(self, name: str, encoder: M3Encoder, identity: Identity) -> MilvusHybridIndex:
        return self._create(self._connect_again(), name, identity, encoder, self._consistency)

    def _connect_again(self) -> Connection:
        address = self._connection.address
        return connect(address.uri, address.token, database=address.database)

    def _record(self, identity: Any) -> None:
        with self._writer.lock:
            identity.write(self._store.blocks)
        super()._record(identity)

    def _aliases(self) -> list[str]:
        return lifecycle.aliases(self._store.documents)


def _is_there(uri: str | Path) -> bool:
    """Whether there can be an index: at a server, or in a file that there is."""
    return is_server(uri) or Path(lite_path(uri)).exists()


def _connect_to(name: str, uri: str | Path, token: str | None) -> Connection:
    """A connection to an index that should be there: to a path without a file, it would make an empty one."""
    if not _is_there(uri):
        raise lifecycle.not_found(name, str(uri))
    return connect(uri, token)
