"""A foreign collection by primary key: every call bounded in rows, none limited in total.

Keys are their owner's text, of which neither order nor spread is known: where an answer would pass Milvus'
limit on rows, the question is asked again for either side of that answer's middle key. (pymilvus'
own `query_iterator` and `ids=` put keys into expressions as they are, quotes and all.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pymilvus.exceptions import MilvusException

from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Candidate
from m3plugins.indexing.report import FailedDocument
from m3plugins_milvus.attached.expressions import EXPRESSION_LENGTH, Key, Span, among, literal, to_key
from m3plugins_milvus.attached.fields import TableSchema, VectorIndex
from m3plugins_milvus.attached.rows import Row, integer_ids, to_metadata
from m3plugins_milvus.client import Connection, MilvusIndexError
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.requests import MAX_ROWS, both
from m3plugins_milvus.schema import search_params

ROWS_PER_READ = 128
ROWS_PER_WRITE = 64

STRONG = "Strong"
"""Reads see all writes that were acknowledged, whatever the collection's own default is."""


@dataclass(frozen=True)
class Table:
    """Reads and writes of one collection, by documents' ids.

    Attributes:
        connection: Where it is.
        name: Its name.
        schema: Which of its fields is what.
    """

    connection: Connection
    name: str
    schema: TableSchema

    def fetch(self, ids: Iterable[str], fields: Sequence[str]) -> dict[str, Row]:
        """The rows of these ids, with the primary key and the given fields; unknown ids are left out."""
        rows: dict[str, Row] = {}
        for keys in self._runs(ids):
            for start in range(0, len(keys), ROWS_PER_READ):
                some = keys[start : start + ROWS_PER_READ]
                rows |= {str(row[self._pk]): row for row in self._query(among(self._pk, some), fields, len(some))}
        return rows

    def sample(self, fields: Sequence[str], count: int) -> list[Row]:
        """Some rows."""
        return self._query("", fields, count)

    def matching(self, plan: Plan, fields: Sequence[str]) -> Iterator[dict[str, Row]]:
        """The rows that match, in small groups by id, with the given fields."""
        wanted = list(dict.fromkeys([*fields, *(self.schema.metadata if plan.check else [])]))
        for page in self._keys(plan.expression):
            for start in range(0, len(page), ROWS_PER_READ):
                rows = self.fetch(map(str, page[start : start + ROWS_PER_READ]), wanted)
                yield {i: row for i, row in rows.items() if plan.accepts(to_metadata(row, self.schema))}

    def count(self, expression: str) -> int:
        """How many rows match."""
        return self._collection.count(expression)

    def has_dynamic(self, name: str) -> bool:
        """Whether a row has a dynamic field of this name."""
        return bool(self._query(f"exists $meta[{literal(name)}]", [], 1))

    def delete(self, ids: Iterable[str]) -> None:
        """Deletes rows; unknown ids are none."""
        for keys in self._runs(ids):
            with self.connection.calls(f"delete rows in {self.name!r}"):
                self.connection.client.delete(self.name, filter=among(self._pk, keys))

    def store(self, rows: Sequence[Row]) -> list[FailedDocument]:
        """Stores rows, replacing those of the same key; returns those that Milvus refuses, with its reasons."""
        failed: list[FailedDocument] = []
        for start in range(0, len(rows), ROWS_PER_WRITE):
            some = rows[start : start + ROWS_PER_WRITE]
            try:
                self._store(some)
            except MilvusIndexError as err:
                if not isinstance(err.__cause__, MilvusException):
                    raise
                with self.connection.calls(f"reach {self.name!r}"):  # if it still answers, it is a row that it refuses
                    self.connection.client.describe_collection(self.name)
                failed += [failure for row in some if (failure := self._try(row))]
        return failed

    def search(self, index: VectorIndex, vector: object, k: int, plan: Plan) -> list[Candidate]:
        """The k best by inner product, ties by id."""
        best: list[Candidate] = []
        spans = [Span()]
        while spans:
            span = spans.pop()
            found, keys = self._nearest(index, vector, k, plan, span)
            best += found
            spans += span.split(keys) if keys else ()
        return sorted(best, key=lambda hit: (-hit.score, hit.id))[:k]

    def flush(self) -> None:
        """Indexes what was written, on Lite; see `Collection.flush`."""
        self._collection.flush()

    def load(self) -> None:
        """Makes it searchable; on Lite, after a crash as well."""
        self._collection.load()

    @property
    def _collection(self) -> Collection:
        return Collection(self.connection, self.name)

    @property
    def _pk(self) -> str:
        return self.schema.fields.id

    def _runs(self, ids: Iterable[str]) -> Iterator[list[Key]]:
        """The keys of ids that rows can have, as many at a time as fit an expression."""
        keys = (to_key(i, integer=integer_ids(self.schema)) for i in ids)
        known = (key for key in keys if key is not None)
        return bounded_runs(known, lambda key: len(literal(key)) + 2, EXPRESSION_LENGTH)

    def _keys(self, expression: str) -> Iterator[list[Key]]:
        """The keys of all rows that match, in lists of less than MAX_ROWS."""
        spans = [Span()]
        while spans:
            span = spans.pop()
            rows = self._query(both(expression, span.expression(self._pk)), [], MAX_ROWS)
            keys = list(dict.fromkeys(row[self._pk] for row in rows))
            if len(rows) < MAX_ROWS or len(keys) == 1:
                yield keys
            else:
                spans += span.split(keys)

    def _nearest(
        self, index: VectorIndex, vector: object, k: int, plan: Plan, span: Span
    ) -> tuple[list[Candidate], list[Key]]:
        """The k best of a span and maybe more; or none, and the keys of so many that these cannot be told.

        Asks for more until the last score returned is below the k-th that the filter accepts, so that
        neither a tie nor a row that only the expression accepts can take a better one's place.
        """
        limit = min(k + 1, MAX_ROWS)
        while True:
            with self.connection.calls(f"search {self.name!r}"):
                hits = self.connection.client.search(
                    self.name,
                    data=[vector],
                    anns_field=index.field,
                    filter=both(plan.expression, span.expression(self._pk)),
                    limit=limit,
                    output_fields=self.schema.metadata if plan.check else [],
                    search_params={**search_params(index.index_type, limit), "metric_type": index.metric},
                    consistency_level=STRONG,
                )[0]
            found = [
                Candidate(str(hit[self._pk]), float(hit["distance"]))
                for hit in hits
                if plan.check is None or plan.accepts(to_metadata(hit["entity"], self.schema))
            ]
            settled = len(found) >= k and hits[-1]["distance"] < found[k - 1].score
            if settled or len(hits) < limit:
                return found, []
            if limit == MAX_ROWS:
                return [], [hit[self._pk] for hit in hits]
            limit = min(4 * limit, MAX_ROWS)

    def _query(self, expression: str, fields: Sequence[str], limit: int) -> list[Row]:
        with self.connection.calls(f"read {self.name!r}"):
            return list(
                self.connection.client.query(
                    self.name,
                    filter=expression,
                    output_fields=[self._pk, *fields],
                    limit=limit,
                    consistency_level=STRONG,
                )
            )

    def _store(self, rows: Sequence[Row]) -> None:
        store = getattr(self.connection.client, self.connection.capabilities.write)
        with self.connection.calls(f"store rows in {self.name!r}"):
            store(self.name, list(rows))

    def _try(self, row: Row) -> FailedDocument | None:
        try:
            self._store([row])
        except MilvusIndexError as err:
            return FailedDocument(str(row[self._pk]), str(err))
        return None
