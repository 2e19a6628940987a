"""`MilvusHybridIndex`: the three heads of M3 in Milvus Lite or on a Milvus server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, overload

from m3plugins import Document, M3Encoder
from m3plugins.compression import get_codec
from m3plugins.encoding.output import Head, M3Output
from m3plugins.retrieval.document import Candidate
from m3plugins.retrieval.index import Ack, AnyFilter, UpsertReport
from m3plugins.retrieval.ingest import Batch, ingest
from m3plugins.scoring.heads import HeadScores
from m3plugins_milvus import lifecycle, reading
from m3plugins_milvus.blocks import POINTER
from m3plugins_milvus.client import Connection, MilvusIndexError, connect, writer_lock
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import compile_filter
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.rows import check_document, sparse_row
from m3plugins_milvus.schema import BLOCKS_SUFFIX, SPARSE_INDEX
from m3plugins_milvus.store import Store


class MilvusHybridIndex:
    """A `HybridIndex` in Milvus; make one with `create` or `open`.

    Native filters are expressions in Milvus' own language over the fields `id`, `title`, `text`,
    `parent_id` and `metadata` (`'metadata["year"] > 2020'`).

    Example:
        >>> index = MilvusHybridIndex.create("docs", encoder=encoder, uri="./m3.db")  # doctest: +SKIP
        >>> index.upsert([Document(id="a", text="…")]).written  # doctest: +SKIP
        1
    """

    def __init__(self, connection: Connection, name: str, identity: Identity, encoder: M3Encoder) -> None:
        """Use `create` or `open`."""
        self._connection = connection
        self._identity = identity
        self._encoder = encoder
        documents, blocks = Collection(connection, name), Collection(connection, name + BLOCKS_SUFFIX)
        self._store = Store(documents, blocks, identity.codec)
        self._lock = writer_lock(connection, name)
        self._closed = False

    @classmethod
    def create(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str | Path,
        token: str | None = None,
        codec: str = "int8",
        dense_index: Mapping[str, Any] | None = None,
    ) -> MilvusHybridIndex:
        """Makes a new, empty index.

        Args:
            name: Of the collection; a second one, `{name}__mv`, holds the token vectors.
            encoder: Encodes the documents, and the queries.
            uri: A path that ends in `.db` (Milvus Lite), or a server's URL.
            token: The server's API key, or "user:password".
            codec: How token vectors are stored: "float16", "int8" or "binary".
            dense_index: `index_type` and `params` of the dense index; FLAT (exact) by default.

        Raises:
            ValueError: If there is a collection of that name, or an option is not possible.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        get_codec(codec)
        connection = connect(uri, token)
        try:
            identity = lifecycle.create(connection, name, encoder, codec, dense_index)
            return cls(connection, name, identity, encoder)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(cls, name: str, *, encoder: M3Encoder, uri: str | Path, token: str | None = None) -> MilvusHybridIndex:
        """Opens an index that `create` made.

        Args:
            name: Of the collection, or an alias of it.
            encoder: With the model that the index was made with.
            uri: A path that ends in `.db` (Milvus Lite), or a server's URL.
            token: The server's API key, or "user:password".

        Raises:
            IndexNotFoundError: If there is no such index.
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If the collection is not of ours.
            MilvusIndexError: If Milvus refuses or cannot be reached.
        """
        if "://" not in str(uri) and not Path(uri).expanduser().exists():
            raise lifecycle.not_found(name, str(uri))  # connecting would make an empty one
        connection = connect(uri, token)
        try:
            name, identity = lifecycle.open(connection, name)
            identity.check(encoder, name)
            return cls(connection, name, identity, encoder)
        except BaseException:
            connection.close()
            raise

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""
        return self._encoder

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents, streamed; see `HybridIndex.upsert`.

        Raises:
            ValueError: If the encoder cuts documents at another length than the index's, or the
                embeddings are not as many, or not as wide, as they must be.
        """
        self._check_open()
        self._identity.check_length(self._encoder)
        try:
            report = ingest(
                documents,
                embeddings,
                encoder=self._encoder,
                stored_digests=self._digests,
                write=self._write,
                on_ack=on_ack,
                check=check_document,
            )
        except BaseException:
            with suppress(MilvusIndexError):  # what stopped it is the error to tell
                self._store.flush()
            raise
        self._store.flush()
        return report

    def delete(self, ids: Sequence[str] | None = None, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """Deletes by ids or by filter (exactly one of them); returns how many documents went."""
        self._check_open()
        if (ids is None) == (filter is None):
            msg = "delete takes either ids or a filter"
            raise ValueError(msg)
        deleted = 0
        with self._lock:
            if ids is not None:
                pages = iter([self._store.documents.fetch(reading.keys_of(ids), POINTER)])
            else:
                pages = reading.matching(self._store, compile_filter(filter), POINTER)
            for rows in pages:
                self._store.remove(rows.values())
                deleted += len(rows)
        return deleted

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""
        self._check_open()
        return reading.get(self._store, ids)

    def count(self, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """How many documents there are, or match."""
        self._check_open()
        plan = compile_filter(filter)
        if plan.check is None:
            return self._store.documents.count(plan.expression)
        return sum(len(rows) for rows in reading.matching(self._store, plan, ()))

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,  # noqa: A002
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, in no particular order, in bounded memory.

        With embeddings it gives pairs of a document and its output of length 1, the token vectors as
        the codec kept them.
        """
        self._check_open()
        plan = compile_filter(filter)
        if with_embeddings:
            return reading.scan_embeddings(self._store, plan, self._identity)
        return reading.scan(self._store, plan)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,  # noqa: A002
    ) -> dict[Head, list[Candidate]]:
        """The best k documents of the dense and of the sparse head (those that `query`, of length 1, has)."""
        self._check_open()
        _check_query(query)
        plan = compile_filter(filter)
        search = self._store.documents.search
        found: dict[Head, list[Candidate]] = {}
        if query.dense is not None:
            found["dense"] = search("dense", query.dense[0], k, plan, self._identity.dense_index["index_type"])
        if query.sparse is not None:
            weights = sparse_row(query.sparse[0], self._identity.vocab_size)
            hits = search("sparse", weights, k, plan, SPARSE_INDEX) if weights else []
            found["sparse"] = [hit for hit in hits if hit.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
        """Exact scores (of what the codec kept), on the heads that `query` has; unknown ids are left out."""
        self._check_open()
        _check_query(query)
        return reading.score(self._store, self._identity, query, ids)

    def sweep(self) -> int:
        """Deletes the blocks that an interrupted `upsert` or `delete` left behind; returns how many.

        For space only: answers are right without. No other process may write meanwhile.
        """
        self._check_open()
        with self._lock:
            return self._store.sweep()

    def drop(self) -> None:
        """Deletes the index and all in it, and closes it."""
        self._check_open()
        with self._lock:
            self._store.documents.drop()
            self._store.blocks.drop()
        self.close()

    def close(self) -> None:
        """Ends the connection; the last index of a Lite file frees it for other processes."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._connection.close()

    def __enter__(self) -> MilvusHybridIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            msg = "this index is closed; open it again with MilvusHybridIndex.open"
            raise ValueError(msg)

    def _digests(self, ids: Sequence[str]) -> dict[str, str]:
        rows = self._store.documents.fetch(reading.keys_of(ids), ["id", "revision"])
        return {row["id"]: row["revision"] for row in rows.values()}

    def _write(self, batch: Batch) -> None:
        with self._lock:
            self._store.write(batch)


def _check_query(query: M3Output) -> None:
    if len(query) != 1:
        msg = f"query must hold one text, got {len(query)}; slice it, as in output[i]"
        raise ValueError(msg)
