"""`ElasticsearchHybridIndex`: the three heads of M3 in Elasticsearch, on any licence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from elasticsearch import Elasticsearch

from m3plugins import M3Encoder
from m3plugins.compression import DEFAULT_CODEC
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.locking import shared_locks
from m3plugins.indexing.named_index import NamedIndex, opened_or_created
from m3plugins_elasticsearch import lifecycle, versions
from m3plugins_elasticsearch.capabilities import Capabilities, probe
from m3plugins_elasticsearch.client import Connection, connect
from m3plugins_elasticsearch.field_paths import FieldPaths
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.reader import ElasticsearchReader
from m3plugins_elasticsearch.store import Store
from m3plugins_elasticsearch.writer import ElasticsearchWriter

if TYPE_CHECKING:
    from m3plugins.cli.checks import Check


class ElasticsearchHybridIndex(NamedIndex):
    """A `HybridIndex` in Elasticsearch; make one with `create`, `open` or `open_or_create`.

    Native filters are queries of Elasticsearch's own (`{"term": {"metadata.lang": "en"}}`) over the fields `id`,
    `parent_id`, `metadata` and, with BM25, `content`.

    Counts, scans and candidates are of what searches see (`refresh`); `embeddings` leaves out a document that was
    replaced and is not shown to searches yet. Sparse weights are kept with 9 significant bits; a search has at most
    10,000 candidates.

    Example:
        >>> index = ElasticsearchHybridIndex.create(
        ...     "docs", encoder=encoder, uri="http://localhost:9200"
        ... )  # doctest: +SKIP
        >>> index.upsert([Document(id="a", text="…")]).written  # doctest: +SKIP
        1
    """

    default_uri = "http://localhost:9200"
    _reopen = "open it again with ElasticsearchHybridIndex.open"
    _identity: Identity
    _writer: ElasticsearchWriter

    def __init__(
        self, connection: Connection, name: str, identity: Identity, encoder: M3Encoder, refresh: bool
    ) -> None:
        """Use `create` or `open`."""
        store = Store(connection, name, identity, FieldPaths())
        locks = shared_locks("elasticsearch", connection.place, name)
        writer = ElasticsearchWriter(replace(store, connection=connection.patient()), refresh, locks)
        super().__init__(ElasticsearchReader(store), writer, encoder=encoder, identity=identity)
        self._connection = connection

    @classmethod
    def checks(cls, uri: str = "", token: str | None = None) -> Iterator[Check]:
        """Lines of `m3 doctor`: the client's version and, with an address, the cluster's."""
        return versions.checks(uri, token)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | None = None,
        token: str | None = None,
        client: Elasticsearch | None = None,
        client_options: Mapping[str, Any] | None = None,
        codec: str = DEFAULT_CODEC,
        dense_index: str | Mapping[str, Any] = "int8_hnsw",
        passages: Passages | None = None,
        bm25: str | Mapping[str, Any] | None = None,
        metadata_fields: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        refresh: bool = True,
        patience: float = 120.0,
    ) -> ElasticsearchHybridIndex:
        """Makes a new, empty index.

        Args:
            name: Of the index.
            encoder: Encodes the documents, and the queries.
            uri: The address, `http(s)://[user:password@]host[:port]`.
            token: An API key, or "user:password".
            client: A client of your own, in place of `uri`; it stays open.
            client_options: Of `elasticsearch.Elasticsearch`, such as `ca_certs`.
            codec: How token vectors are stored: "binary" (1 bit a dimension), "int8" or "float16".
            dense_index: Type of the dense index, or all its `index_options`: "int8_hnsw", "hnsw", "int4_hnsw",
                "bbq_hnsw", or "flat", "int8_flat", "int4_flat", "bbq_flat", which compare with every document. All
                keep the whole vectors too, by which every score is computed.
            passages: How to cut documents into what is stored and found; None stores them as they are.
            bm25: For Elasticsearch's own full-text search as a fourth signal (`HybridWeights(bm25=...)`): an
                analyzer's name ("standard", "german", ...) or its definition.
            metadata_fields: Mappings of metadata fields (`{"published": {"type": "date"}}`), for native queries and
                aggregations; values that do not fit are refused. None takes any field as a `flattened` one, whose
                values native queries compare as strings. Filters of `m3plugins.indexing.filters` do not need it.
            settings: Of the index, such as `number_of_shards`.
            refresh: Whether what a call wrote is visible to searches when it returns; otherwise it is after the
                index's own `refresh_interval`, which is faster for many small writes.
            patience: Seconds for which a write goes on while Elasticsearch is busy or away.

        Raises:
            IndexExistsError: If there is an index of that name.
            ValueError: If an option is not possible.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        identity = Identity.asked(
            encoder,
            codec=codec,
            dense_index=dense_index,
            passages=passages,
            bm25=bm25,
            metadata_fields=metadata_fields,
        )
        connection = connect(uri, token, client=client, patience=patience, options=client_options)
        return cls._create(connection, name, identity, encoder, settings, refresh)

    @classmethod
    def _create(
        cls,
        connection: Connection,
        name: str,
        identity: Identity,
        encoder: M3Encoder,
        settings: Mapping[str, Any] | None,
        refresh: bool,
    ) -> ElasticsearchHybridIndex:
        try:
            if fault := probe(connection).fault:
                raise ValueError(fault)
            lifecycle.create(connection, name, identity, settings)
            return cls(connection, name, identity, encoder, refresh)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | None = None,
        token: str | None = None,
        client: Elasticsearch | None = None,
        client_options: Mapping[str, Any] | None = None,
        refresh: bool = True,
        patience: float = 120.0,
    ) -> ElasticsearchHybridIndex:
        """Opens an index that `create` made.

        Args:
            name: Of the index, or an alias of it. It stays with the index that the alias names now; `name` tells
                which that is.
            encoder: With the model that the index was made with.
            uri: The address.
            token: An API key, or "user:password".
            client: A client of your own, in place of `uri`; it stays open.
            client_options: Of `elasticsearch.Elasticsearch`.
            refresh: As in `create`.
            patience: As in `create`.

        Raises:
            IndexNotFoundError: If there is no such index.
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If the index is not of ours.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        connection = connect(uri, token, client=client, patience=patience, options=client_options)
        return cls._open(connection, name, encoder, refresh)

    @classmethod
    def _open(cls, connection: Connection, name: str, encoder: M3Encoder, refresh: bool) -> ElasticsearchHybridIndex:
        try:
            name, identity = lifecycle.own(connection, name)
            identity.check(encoder, name)
            return cls(connection, name, identity, encoder, refresh)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open_or_create(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | None = None,
        token: str | None = None,
        client: Elasticsearch | None = None,
        client_options: Mapping[str, Any] | None = None,
        codec: str | None = None,
        dense_index: str | Mapping[str, Any] | None = None,
        passages: Passages | None = None,
        bm25: str | Mapping[str, Any] | None = None,
        metadata_fields: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        refresh: bool = True,
        patience: float = 120.0,
    ) -> ElasticsearchHybridIndex:
        """Opens an index if it is there, and makes it otherwise, whoever else does so at the same time.

        The arguments are those of `open` and of `create`. An option that is None is what the index has, or the
        default of `create`; `settings` are of an index that is made.

        Raises:
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If it has another option than one that is given, or is not of ours.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        options = {
            "codec": codec,
            "dense_index": dense_index,
            "passages": passages,
            "bm25": bm25,
            "metadata_fields": metadata_fields,
        }
        given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
        asked = Identity.asked(encoder, **given)
        there: dict[str, Any] = {
            "encoder": encoder,
            "uri": uri,
            "token": token,
            "client": client,
            "client_options": client_options,
            "refresh": refresh,
            "patience": patience,
        }
        create = partial(cls.create, name, **there, **given, settings=settings)
        index = opened_or_created(partial(cls.open, name, **there), create)
        return index._checked(asked, given)

    @classmethod
    def list_indexes(
        cls, *, uri: str | None = None, token: str | None = None, client: Elasticsearch | None = None
    ) -> list[str]:
        """The names of the indexes that `create` made, sorted.

        Raises:
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        with closing(connect(uri, token, client=client)) as connection:
            return lifecycle.names(connection)

    @classmethod
    def describe_index(
        cls, name: str, *, uri: str | None = None, token: str | None = None, client: Elasticsearch | None = None
    ) -> IndexInfo:
        """What `describe` says of an index, without its model.

        Raises:
            IndexNotFoundError: If there is no such index.
            ValueError: If the index is not of ours.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        with closing(connect(uri, token, client=client)) as connection:
            return lifecycle.describe(connection, *lifecycle.own(connection, name))

    @classmethod
    def drop_index(
        cls, name: str, *, uri: str | None = None, token: str | None = None, client: Elasticsearch | None = None
    ) -> None:
        """Deletes an index and all in it, without its model.

        Raises:
            IndexNotFoundError: If there is no such index.
            ValueError: If the index is not of ours, or an alias points at it.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        with closing(connect(uri, token, client=client)) as connection:
            lifecycle.drop_named(connection, name)

    def describe(self) -> IndexInfo:
        """Tells what made the index, how it keeps documents, and how many searches see."""
        self._check_open()
        return lifecycle.describe(self._connection, self.name, self._identity)

    def probe(self) -> Capabilities:
        """Asks the cluster for its health, its version and its licence."""
        self._check_open()
        return probe(self._connection)

    def swap(self, alias: str) -> str | None:
        """Points an alias at this index, in one step, and returns the index that it pointed at (None: none).

        Indexes that were opened by the alias before stay with their index until they are opened again.

        Raises:
            ValueError: If `alias` is the name of an index.
        """
        self._check_open()
        before = lifecycle.swap(self._connection, self.name, alias)
        return ", ".join(before) or None

    def _open_beside(self, name: str, encoder: M3Encoder) -> ElasticsearchHybridIndex:
        return self._open(self._connection.another(), name, encoder, self._writer.refresh)

    def _create_beside(self, name: str, encoder: M3Encoder, identity: Identity) -> ElasticsearchHybridIndex:
        settings = lifecycle.user_settings(self._connection, self.name)
        return self._create(self._connection.another(), name, identity, encoder, settings, self._writer.refresh)

    def _record(self, identity: Any) -> None:
        lifecycle.record(self._connection, self.name, identity)
        super()._record(identity)

    def _aliases(self) -> list[str]:
        return lifecycle.aliases(self._connection, self.name)
