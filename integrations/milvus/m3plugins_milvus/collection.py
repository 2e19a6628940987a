"""One Milvus collection, by primary key: every call bounded in rows and bytes, none limited in total.

Keys are hexadecimal hashes (what follows a colon aside), so they are evenly spread: where an answer would
pass Milvus' limit on rows, the question is asked again for each first digit of the key, and so on.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Candidate
from m3plugins_milvus import repair, requests
from m3plugins_milvus.client import Connection, MilvusIndexError
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.requests import MAX_KEYS, MAX_ROWS, MAX_WRITE, Consistency, Row, both, under
from m3plugins_milvus.schema import BM25, KEY, search_params

__all__ = ["Collection", "Row"]

DIGITS = "0123456789abcdef"


@dataclass(frozen=True)
class Collection:
    """Reads and writes of one collection.

    Attributes:
        connection: Where it is.
        name: Its name.
    """

    connection: Connection
    name: str

    def upsert(self, rows: Iterable[Row]) -> None:
        """Stores rows, replacing those of the same key."""
        store = getattr(self.connection.client, self.connection.capabilities.write)
        for batch in bounded_runs(rows, requests.row_size, MAX_WRITE):
            with self.connection.calls(f"store rows in {self.name!r}"):
                store(**requests.write(self.name, batch))
        self.connection.record(self.name)

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes rows; unknown keys are none."""
        for chunk in _chunks(keys, MAX_KEYS):
            with self.connection.calls(f"delete rows in {self.name!r}"):
                self.connection.client.delete(**requests.delete(self.name, chunk))
        self.connection.record(self.name)

    def fetch(self, keys: Sequence[str], fields: Sequence[str], chunk: int = MAX_KEYS) -> dict[str, Row]:
        """The rows of these keys, at most `chunk` at a time; unknown keys are left out."""
        fields = [KEY, *fields]
        rows: dict[str, Row] = {}
        for some in _chunks(keys, min(chunk, requests.rows_per_read(fields))):
            rows |= {row[KEY]: row for row in self._query(requests.among(some), fields, len(some))}
        return rows

    def keys(self, expression: str = "", prefix: str = "") -> Iterator[list[str]]:
        """The keys of all rows that match, in lists of less than MAX_ROWS."""
        rows = self._query(both(expression, under(prefix)), [KEY], MAX_ROWS)
        if len(rows) < MAX_ROWS:
            yield [row[KEY] for row in rows]
        else:
            for digit in DIGITS:
                yield from self.keys(expression, prefix + digit)

    def count(self, expression: str = "") -> int:
        """How many rows match."""
        with self.connection.calls(f"count {self.name!r}"):
            rows = self.connection.client.query(**requests.count(self.name, expression))
        return int(rows[0]["count(*)"])

    def search(
        self,
        field: str,
        vector: object,
        k: int,
        plan: Plan,
        index_type: str,
        prefix: str = "",
        *,
        consistency: Consistency = "Strong",
    ) -> list[Candidate]:
        """The k best by inner product, ties by id.

        Asks for more until the last score returned is below the k-th that the filter accepts, so that
        neither a tie nor a row that only the expression accepts can take a better one's place.
        A consistency below "Strong" may miss what was written a moment ago, and is faster on a busy server.
        """
        limit = min(k + 1, MAX_ROWS)
        expression = both(plan.expression, under(prefix))
        while True:
            params = search_params(index_type, limit)
            request = requests.search(self.name, field, vector, expression, limit, params, consistency)
            with self.connection.calls(f"search {self.name!r}"):
                hits = self.connection.client.search(**request)[0]
            wanted = self._accepted([hit.pk for hit in hits], plan)
            scores = [abs(hit["distance"]) if index_type == BM25 else hit["distance"] for hit in hits]  # Lite: negative
            pairs = zip(hits, scores, strict=True)
            found = [Candidate(hit["entity"]["id"], float(score)) for hit, score in pairs if hit.pk in wanted]
            settled = len(found) >= k and scores[-1] < found[k - 1].score
            if settled or len(hits) < limit:
                break
            if limit == MAX_ROWS:
                parts = (
                    self.search(field, vector, k, plan, index_type, prefix + digit, consistency=consistency)
                    for digit in DIGITS
                )
                found = [hit for part in parts for hit in part]
                break
            limit = min(4 * limit, MAX_ROWS)
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:k]

    def flush(self) -> None:
        """Indexes what was written, on Lite (searching it otherwise takes 80 times as long)."""
        if self.connection.lite:
            with self.connection.calls(f"flush {self.name!r}"):
                self.connection.client.flush(self.name)
            self.connection.record(self.name)

    def load(self) -> None:
        """Makes it searchable; on Lite, after a crash as well."""
        try:
            self._load()
        except MilvusIndexError:
            if (folder := self.connection.folder(self.name)) is None:
                raise
            repair.forget_indexes(folder)  # one of them may have been cut short
            self._load()

    def _load(self) -> None:
        with self.connection.calls(f"load {self.name!r}"):
            self.connection.client.load_collection(self.name)

    def drop(self) -> None:
        """Deletes the collection and all in it."""
        folder = self.connection.folder(self.name)
        with (
            nullcontext() if folder is None else repair.dropping(folder),
            self.connection.calls(f"drop {self.name!r}"),
        ):
            self.connection.client.drop_collection(self.name)

    def _accepted(self, keys: Sequence[str], plan: Plan) -> Container[str]:
        """Those of these keys whose rows the plan's check accepts (metadata may be large: it is read apart)."""
        if plan.check is None:
            return set(keys)
        return {key for key, row in self.fetch(keys, ["metadata"]).items() if plan.accepts(row["metadata"])}

    def _query(self, expression: str, fields: Sequence[str], limit: int) -> list[Row]:
        with self.connection.calls(f"read {self.name!r}"):
            return list(self.connection.client.query(**requests.query(self.name, expression, fields, limit)))


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))
