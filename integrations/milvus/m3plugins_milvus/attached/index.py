"""`AttachedIndex`: a `HybridIndex` on a collection that is not ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import Literal, overload

from m3plugins import Document, HeadScores, M3Encoder, M3Output
from m3plugins.encoding.output import HEADS, check_heads
from m3plugins.indexing.arguments import check_ids
from m3plugins.indexing.document import Candidate
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.named_index import WritableIndex
from m3plugins.scoring.heads import Signal
from m3plugins_milvus.address import is_server
from m3plugins_milvus.attached import reading
from m3plugins_milvus.attached.computed import ComputedHeads
from m3plugins_milvus.attached.expressions import plan
from m3plugins_milvus.attached.fields import Fields, find, inspect
from m3plugins_milvus.attached.rows import to_vector
from m3plugins_milvus.attached.table import Table
from m3plugins_milvus.attached.verify import check_model
from m3plugins_milvus.attached.writing import TableWriter
from m3plugins_milvus.client import Connection, connect, lite_path, writer_lock
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.native import field_names, unknown_field
from m3plugins_milvus.rows import sparse_row


class AttachedIndex(WritableIndex):
    """A `HybridIndex` on a collection that someone else made and filled; get one with `attach`.

    What the collection does not store (multi-vectors, or a head that it lacks) is computed from the texts in
    question whenever it is asked for, and the last results are kept: rerank few candidates, on a fast device.

    Metadata are the other fields of a row, dynamic ones included, or what one JSON field holds. Native
    filters are Milvus expressions over the collection's fields; neutral filters are decided on the metadata
    in Python, which reads many rows where a filter accepts few.

    `upsert` writes the named fields and the metadata; whatever else a row holds stays. A document that
    lacks a field which the collection requires fails alone, with Milvus' reason.

    Example:
        >>> fields = Fields(id="pk", text="body", dense="dense_vector", sparse="sparse_vector")
        >>> index = AttachedIndex.attach(
        ...     "theirs", encoder=encoder, uri="http://localhost:19530", fields=fields
        ... )  # doctest: +SKIP
    """

    _reopen = "attach it again with AttachedIndex.attach"

    def __init__(self, table: Table, encoder: M3Encoder, cache_bytes: int) -> None:
        """Use `attach`."""
        super().__init__(encoder)
        self._table = table
        self._identity = Identity.of(encoder)
        self._computed = ComputedHeads(encoder, reading.unstored(table.layout), cache_bytes)
        self._lock = writer_lock(table.connection, table.name)
        self._writer = TableWriter(table, self._lock)
        self._dynamic: set[str] = set()  # names of dynamic fields that were looked for
        self._kinds = {name: table.layout.kinds[name] for name in table.layout.scalars}

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

    @property
    def identity(self) -> Identity:
        """What made the stored vectors, as far as `attach` could tell."""
        return self._identity

    @property
    def writer(self) -> TableWriter:
        """What stores embedded documents as they come."""
        return self._writer

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""
        self._check_open()
        return self._writer.get(check_ids(ids))

    def embeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """The embeddings of these documents, in this order; unknown ids are left out.

        Heads that are not stored are computed from the texts. Where none of those is asked for, nothing says
        how many tokens a text has: `token_counts` are 0.
        """
        self._check_open()
        return reading.embeddings(self._table, self._computed, check_ids(ids), check_heads(heads))

    def count(self, filter: AnyFilter | None = None) -> int:
        """How many documents there are, or match."""
        self._check_open()
        plan = self._plan(filter)
        if plan.check is None:
            return self._table.count(plan.expression)
        return sum(len(rows) for rows in self._table.matching(plan, []))

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, in no particular order, in bounded memory.

        With embeddings it gives pairs of a document and its output of length 1, of which what is not stored
        is computed: that encodes every text.
        """
        self._check_open()
        plan = self._plan(filter)
        if with_embeddings:
            return reading.scan_embeddings(self._table, plan, self.encoder)
        return reading.scan(self._table, plan)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """The best k documents of each head that is stored and that `query`, of length 1, has.

        Raises:
            ValueError: If there is a text: such a collection has no BM25 that could be told to be right.
        """
        self._check_open()
        reading.check_asked(query, text)
        plan, indexes = self._plan(filter), self._table.layout.indexes
        if not {*query.heads} & {*indexes}:
            stored, asked = ", ".join(indexes), ", ".join(query.heads)
            msg = f"one of the stored heads must propose documents, these are {stored}, the query has {asked}"
            raise ValueError(msg)
        found: dict[Signal, list[Candidate]] = {}
        if query.dense is not None and (index := indexes.get("dense")):
            found["dense"] = self._table.search(index, to_vector(query.dense[0], index), k, plan)
        if query.sparse is not None and (index := indexes.get("sparse")):
            weights = sparse_row(query.sparse[0], self.encoder.vocab_size)
            hits = self._table.search(index, weights, k, plan) if weights else []
            found["sparse"] = [hit for hit in hits if hit.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Exact scores, on the heads that `query` has; heads that are not stored are computed from the texts.

        Raises:
            ValueError: If there is a text.
        """
        self._check_open()
        reading.check_asked(query, text)
        return reading.score(self._table, self._computed, query, check_ids(ids))

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

    def close(self) -> None:
        """Ends the connection; the last index of a Lite file frees it for other processes."""
        if self._inherited:
            return  # the parent goes on with it
        with self._lock:
            if not self._closed:
                self._closed = True
                self._table.connection.close()

    def _deleting(self) -> RLock:
        return self._lock

    def _remove_matching(self, filter: AnyFilter) -> int:
        return sum(self._writer.remove(list(rows)) for rows in self._table.matching(self._plan(filter), []))

    def _plan(self, filter: AnyFilter | None) -> Plan:
        if isinstance(filter, str):
            self._check_fields(filter)
        return plan(filter, {} if self._table.layout.fields.metadata else self._kinds)

    def _check_fields(self, expression: str) -> None:
        """Refuses an expression about a field that is not there; warns where it may become a dynamic one."""
        layout = self._table.layout
        for name in sorted(field_names(expression) - layout.kinds.keys() - self._dynamic):
            if not layout.dynamic:
                raise unknown_field(name, layout.kinds, layout.fields.metadata)
            if not self._table.has_dynamic(name):
                told = (
                    f"no row of {self._table.name!r} has a field {name!r}, which the filter names; check its spelling"
                )
                warnings.warn(told, stacklevel=4)
            self._dynamic.add(name)


def _table(connection: Connection, name: str, fields: Fields, encoder: M3Encoder) -> Table:
    described = find(connection, name)
    return Table(connection, described["collection_name"], inspect(connection, described, fields, encoder))
