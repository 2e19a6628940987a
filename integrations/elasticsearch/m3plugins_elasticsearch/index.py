"""`ElasticsearchHybridIndex`: the three heads of M3 in Elasticsearch, on any licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from elasticsearch import Elasticsearch

from m3plugins import Document, M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.passages import Passages
from m3plugins.retrieval.index import Ack, AnyFilter, IndexNotFoundError, UpsertReport, check_ids, check_one_of
from m3plugins.retrieval.ingest import ingest
from m3plugins.retrieval.passages import check_not_embedded, ingest_passages
from m3plugins.retrieval.reembedding import ReembedReport, reembed
from m3plugins.retrieval.updating import update_metadata
from m3plugins_elasticsearch import lifecycle
from m3plugins_elasticsearch.capabilities import probe
from m3plugins_elasticsearch.client import Connection, connect
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.layout import Layout
from m3plugins_elasticsearch.readable import ReadableIndex
from m3plugins_elasticsearch.reading import Reader
from m3plugins_elasticsearch.store import Store


@dataclass(frozen=True)
class Reembedding:
    """What `ElasticsearchHybridIndex.reembed` made.

    Attributes:
        index: The new index, open.
        report: What was done; nothing failed.
    """

    index: ElasticsearchHybridIndex
    report: ReembedReport


class ElasticsearchHybridIndex(ReadableIndex):
    """A `HybridIndex` in Elasticsearch; make one with `create` or `open`.

    Native filters are queries of Elasticsearch's own (`{"term": {"metadata.lang": "en"}}`) over the fields `id`,
    `parent_id`, `metadata` and, with BM25, `content`.

    Example:
        >>> index = ElasticsearchHybridIndex.create(
        ...     "docs", encoder=encoder, uri="http://localhost:9200"
        ... )  # doctest: +SKIP
        >>> index.upsert([Document(id="a", text="…")]).written  # doctest: +SKIP
        1
    """

    default_uri = "http://localhost:9200"

    def __init__(
        self, connection: Connection, name: str, identity: Identity, encoder: M3Encoder, refresh: bool
    ) -> None:
        """Use `create` or `open`."""
        super().__init__(Reader(connection, name, identity, Layout()), encoder)
        self._store = Store(replace(self._reader, connection=connection.patient()), refresh)

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
        codec: str = "int8",
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
            codec: How token vectors are stored: "float16", "int8" or "binary".
            dense_index: Type of the dense index, or all its `index_options`: "int8_hnsw", "hnsw", "int4_hnsw",
                "bbq_hnsw", or "flat", "int8_flat", "int4_flat", "bbq_flat", which compare with every document. All
                keep the whole vectors too, by which every score is computed.
            passages: How to cut documents into what is stored and found; None stores them as they are.
            bm25: For Elasticsearch's own full-text search as a fourth leg (`HybridWeights(bm25=...)`): an
                analyzer's name ("standard", "german", ...) or its definition.
            metadata_fields: Mappings of metadata fields (`{"published": {"type": "date"}}`), for native queries and
                aggregations; values that do not fit are refused. None takes any field as a `flattened` one, whose
                values native queries compare as strings. Filters of `m3plugins.retrieval.filters` do not need it.
            settings: Of the index, such as `number_of_shards`.
            refresh: Whether what a call wrote is visible to searches when it returns; otherwise it is after the
                index's own `refresh_interval`, which is faster for many small writes.
            patience: Seconds for which a write goes on while Elasticsearch is busy or away.

        Raises:
            ValueError: If there is an index of that name, or an option is not possible.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        identity = Identity.asked(
            encoder, codec=codec, dense_index=dense_index, passages=passages, bm25=bm25, metadata=metadata_fields
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
            name, described = lifecycle.find(connection, name)
            identity = lifecycle.stored_identity(name, described)
            if identity is None or identity.fields is not None:
                msg = (
                    f"the index {name!r} was not made by ElasticsearchHybridIndex.create; use AttachedIndex.attach, or "
                    "choose another name"
                )
                raise ValueError(msg)
            identity.check(encoder, name)
            return cls(connection, name, identity, encoder, refresh)
        except BaseException:
            connection.close()
            raise

    @property
    def writer(self) -> Store:
        """What stores embedded documents as they come."""
        return self._store

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents, streamed; see `HybridIndex.upsert`.

        Raises:
            ValueError: If the encoder cuts documents at another length than the index's, or the
                embeddings are not as many, or not as wide, as they must be.
        """
        identity = self.identity
        with self._writing():
            identity.check_length(self.encoder)
            if identity.cut is None:
                return ingest(documents, embeddings, encoder=self.encoder, writer=self._store, on_ack=on_ack)
            check_not_embedded(embeddings)
            return ingest_passages(documents, identity.cut, encoder=self.encoder, writer=self._store, on_ack=on_ack)

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]], on_ack: Ack | None = None) -> UpsertReport:
        """Replaces the metadata of stored documents, without encoding them; see `HybridIndex.update_metadata`."""
        with self._writing():
            cut = self.identity.cut is not None
            return update_metadata(metadata, writer=self._store, passages=cut, on_ack=on_ack)

    def delete(
        self,
        ids: Sequence[str] | None = None,
        filter: AnyFilter | None = None,  # noqa: A002
        *,
        parent_id: str | None = None,
    ) -> int:
        """Deletes by ids, by filter or by parent (exactly one of them); returns how many stored documents went."""
        check_one_of(ids=ids, filter=filter, parent_id=parent_id)
        store = self._store
        with self._writing():
            if filter is not None:
                return store.remove_matching(self._plan(filter))
            if parent_id is not None:
                return store.remove(list(store.passages_of([parent_id])))
            doomed = check_ids(ids or ())
            return store.remove(doomed if self.identity.cut is None else list(store.passages_of(doomed)))

    def reembed(self, encoder: M3Encoder, *, into: str, on_ack: Ack | None = None, sample: int = 32) -> Reembedding:
        """Copies all documents into a second index of the same options, encoded by another encoder, and verifies it.

        This index stays as it is and goes on answering; `swap` on the new one then moves an alias. A run
        that was interrupted, or failed, goes on where it ended. Writes to this index meanwhile are followed.

        Args:
            encoder: Of the new index.
            into: Name of the new index; one that is there must be of this encoder and of this index's options.
            on_ack: Called with the ids that are stored in the new index.
            sample: How many documents to encode once more, and compare with what is stored.

        Raises:
            ValueError: If `into` is this index, one with other options, or one that an alias points at.
            ModelMismatchError: If `into` is an index of another model.
            ReembedError: If documents could not be stored, or the new index is not what this one is.
        """
        self._check_open()
        target = self._twin(encoder, into)
        try:
            if aliases := lifecycle.aliases(self._connection, target.name):
                msg = f"the alias {', '.join(aliases)} points at {into!r}, its changes would be lost; name a new one"
                raise ValueError(msg)
            self._store.show()  # what was written without a refresh is to be copied as well
            writer = replace(target._store, refresh=True)  # the copy is compared by searches
            report = reembed(self, target, writer, codec=self.identity.codec, on_ack=on_ack, sample=sample)
        except BaseException:
            target.close()
            raise
        return Reembedding(target, report)

    def swap(self, alias: str) -> str | None:
        """Points an alias at this index, in one step, and returns the index that it pointed at (None: none).

        Indexes that were opened by the alias before stay with their index until they are opened again.

        Raises:
            ValueError: If `alias` is the name of an index.
        """
        self._check_open()
        before = lifecycle.swap(self._connection, self.name, alias)
        return ", ".join(before) or None

    def drop(self) -> None:
        """Deletes the index and all in it, and closes it.

        Raises:
            ValueError: If an alias points at it.
        """
        self._check_open()
        if aliases := lifecycle.aliases(self._connection, self.name):
            msg = f"the alias {', '.join(aliases)} points at {self.name!r}; swap it to another index first"
            raise ValueError(msg)
        lifecycle.drop(self._connection, self.name)
        self.close()

    def _twin(self, encoder: M3Encoder, name: str) -> ElasticsearchHybridIndex:
        """An index with the options of this one and another encoder, made or opened; its client is this one's."""
        identity = self.identity.of_another(encoder)
        connection = self._connection.another()
        refresh = self._store.refresh
        try:
            twin = self._open(connection, name, encoder, refresh)
        except IndexNotFoundError:
            settings = lifecycle.user_settings(self._connection, self.name)
            return self._create(self._connection.another(), name, identity, encoder, settings, refresh)
        if twin.name == self.name or twin.identity != identity:
            twin.close()
            what = "this index" if twin.name == self.name else f"an index with other options than {self.name!r}"
            msg = f"into must name a new index, {name!r} is {what}"
            raise ValueError(msg)
        return twin
