"""The `Reader` of a foreign collection: what it does not store is computed from its texts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import RLock

from m3plugins import Document, HeadScores, M3Encoder, M3Output
from m3plugins.encoding.memo import EmbeddingMemo
from m3plugins.encoding.output import HEADS, Head
from m3plugins.indexing.document import Candidate, Digest
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.reader import Reader
from m3plugins.scoring.heads import Signal, head_scores
from m3plugins_milvus.attached.expressions import plan
from m3plugins_milvus.attached.rows import to_document, to_output, to_vector
from m3plugins_milvus.attached.table import Table
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.native import field_names, unknown_field
from m3plugins_milvus.rows import sparse_row

DOCUMENTS_PER_SCORE = 32


class TableReader(Reader[Plan]):
    """Reads a collection that someone else made.

    Args:
        table: The collection.
        encoder: Computes the heads that are not stored.
        lock: That the collection's writers in this process share.
        cache_bytes: Memory for computed embeddings.
    """

    def __init__(self, table: Table, encoder: M3Encoder, lock: RLock, cache_bytes: int) -> None:
        self.table = table
        self._schema = table.schema
        self._encoder = encoder
        self._memo = EmbeddingMemo(encoder, cache_bytes)
        self._unstored = [head for head in HEADS if head not in table.schema.indexes]
        self._lock = lock
        self._dynamic: set[str] = set()  # names of dynamic fields that were looked for
        self._kinds = {name: table.schema.kinds[name] for name in table.schema.scalars}

    @property
    def name(self) -> str:
        """The collection's own name."""
        return self.table.name

    @property
    def bm25_fault(self) -> str:
        """Says why there is no BM25: there may be one, but nothing tells that it is of these texts."""
        return "this collection has no BM25 signal, it is attached; leave the weight of bm25 at 0"

    def compile(self, filter: AnyFilter | None) -> Plan:
        """Compiles a filter; of an expression about a field that is not there it warns, or refuses it."""
        if isinstance(filter, str):
            self._check_fields(filter)
        return plan(filter, {} if self._schema.fields.metadata else self._kinds)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order."""
        rows = self.table.fetch(ids, self._schema.document)
        return [to_document(rows[i], self._schema) for i in ids if i in rows]

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of the stored documents, which these rows say themselves."""
        return {document.id: _digest(document) for document in self.get(ids)}

    def count(self, plan: Plan) -> int:
        """Counts the documents that match."""
        if plan.check is None:
            return self.table.count(plan.expression)
        return sum(len(rows) for rows in self.table.matching(plan, []))

    def scan(self, plan: Plan) -> Iterator[Document]:
        """Yields every document that matches."""
        for rows in self.table.matching(plan, self._schema.document):
            for row in rows.values():
                yield to_document(row, self._schema)

    def scan_embeddings(self, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
        """Yields every document that matches, with all heads: that encodes every text."""
        schema = self._schema
        for rows in self.table.matching(plan, [*schema.document, *schema.fields.heads.values()]):
            documents = [to_document(row, schema) for row in rows.values()]
            texts = (document.content for document in documents)
            computed = (row for output in self._encoder.iter_documents(texts, heads=self._unstored) for row in output)
            for document, row, output in zip(documents, rows.values(), computed, strict=True):
                yield document, _joined(to_output([row], schema, self._encoder.vocab_size), output)

    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        """Returns the embeddings; heads that are not stored are computed from the texts."""
        found = self._find(ids, heads)
        return {i: row for some, output in found for i, row in zip(some, output.select(heads), strict=True)}

    def candidates(self, query: M3Output, k: int, plan: Plan, text: str | None) -> dict[Signal, list[Candidate]]:
        """Returns the best k documents of each head that is stored and that the query has."""
        indexes = self._schema.indexes
        if not {*query.heads} & {*indexes}:
            stored, asked = ", ".join(indexes), ", ".join(query.heads)
            msg = f"one of the stored heads must propose documents, these are {stored}, the query has {asked}"
            raise ValueError(msg)
        found: dict[Signal, list[Candidate]] = {}
        if query.dense is not None and (index := indexes.get("dense")):
            found["dense"] = self.table.search(index, to_vector(query.dense[0], index), k, plan)
        if query.sparse is not None and (index := indexes.get("sparse")):
            weights = sparse_row(query.sparse[0], self._encoder.vocab_size)
            hits = self.table.search(index, weights, k, plan) if weights else []
            found["sparse"] = [hit for hit in hits if hit.score > 0]
        return found

    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        """Returns exact scores; heads that are not stored are computed from the texts."""
        scores: dict[str, HeadScores] = {}
        for some, output in self._find(ids, query.heads):
            scores |= dict(zip(some, head_scores(query, output), strict=True))
        return scores

    def close(self) -> None:
        """Ends the connection; the last index of a Lite file frees it for other processes."""
        with self._lock:
            if not self.table.connection.closed.is_set():
                self.table.connection.close()

    def _find(self, ids: Sequence[str], heads: Sequence[Head]) -> Iterator[tuple[list[str], M3Output]]:
        """Yields those of the ids that are there, some at a time, with these heads of theirs (and others)."""
        schema = self._schema
        stored = [schema.fields.heads[head] for head in heads if head in schema.indexes]
        compute = len(stored) < len(heads)
        rows = self.table.fetch(ids, [*stored, *(schema.document if compute else [])])
        known = [i for i in ids if i in rows]
        for start in range(0, len(known), DOCUMENTS_PER_SCORE):
            some = known[start : start + DOCUMENTS_PER_SCORE]
            output = to_output([rows[i] for i in some], schema, self._encoder.vocab_size)
            if compute:
                texts = [to_document(rows[i], schema).content for i in some]
                output = _joined(output, self._memo.encode_documents(texts, heads=self._unstored))
            yield some, output

    def _check_fields(self, expression: str) -> None:
        """Refuses an expression about a field that is not there; warns where it may become a dynamic one."""
        schema = self._schema
        for name in sorted(field_names(expression) - schema.kinds.keys() - self._dynamic):
            if not schema.dynamic:
                raise unknown_field(name, schema.kinds, schema.fields.metadata)
            if not self.table.has_dynamic(name):
                told = f"no row of {self.name!r} has a field {name!r}, which the filter names; check its spelling"
                warnings.warn(told, stacklevel=4)
            self._dynamic.add(name)


def _digest(document: Document) -> Digest:
    try:
        return document.digest()
    except ValueError:  # what others stored need not be what a Document may hold, such as NaN
        return Digest("", "")


def _joined(stored: M3Output, computed: M3Output) -> M3Output:
    return replace(
        computed,
        dense=computed.dense if stored.dense is None else stored.dense,
        sparse=computed.sparse if stored.sparse is None else stored.sparse,
    )
