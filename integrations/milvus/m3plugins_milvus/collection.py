"""One Milvus collection, by primary key: every call bounded in rows and bytes, none limited in total.

Keys are hexadecimal hashes (what follows a colon aside), so they are evenly spread: where an answer would
pass Milvus' limit on rows, the question is asked again for each first digit of the key, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m3plugins.encoding.batching import bounded_runs
from m3plugins.retrieval.document import Candidate
from m3plugins_milvus.client import Connection, errors
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.schema import KEY, search_params

MAX_ROWS = 16_384
MAX_RPC_BYTES = 4 << 20
DIGITS = "0123456789abcdef"

Row = dict[str, Any]


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
        # A server would keep both rows of an insert. Lite replaces; its upsert keeps the old row's dynamic fields.
        client = self.connection.client
        store = client.insert if self.connection.lite else client.upsert
        for batch in bounded_runs(rows, _row_size, MAX_RPC_BYTES):
            with errors(f"store rows in {self.name!r}"):
                store(self.name, [{field: _quick(value) for field, value in row.items()} for row in batch])

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes rows; unknown keys are none."""
        for chunk in _chunks(keys, 1000):
            with errors(f"delete rows in {self.name!r}"):
                self.connection.client.delete(self.name, filter=_among(chunk))

    def fetch(self, keys: Sequence[str], fields: Sequence[str], chunk: int = 1000) -> dict[str, Row]:
        """The rows of these keys, `chunk` at a time; unknown keys are left out."""
        rows: dict[str, Row] = {}
        for some in _chunks(keys, chunk):
            rows |= {row[KEY]: row for row in self._query(_among(some), [KEY, *fields], len(some))}
        return rows

    def keys(self, expression: str = "", prefix: str = "") -> Iterator[list[str]]:
        """The keys of all rows that match, in lists of less than MAX_ROWS."""
        rows = self._query(_both(expression, _under(prefix)), [KEY], MAX_ROWS)
        if len(rows) < MAX_ROWS:
            yield [row[KEY] for row in rows]
        else:
            for digit in DIGITS:
                yield from self.keys(expression, prefix + digit)

    def count(self, expression: str = "") -> int:
        """How many rows match."""
        with errors(f"count {self.name!r}"):
            rows = self.connection.client.query(self.name, filter=expression, output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def search(
        self, field: str, vector: object, k: int, plan: Plan, index_type: str, prefix: str = ""
    ) -> list[Candidate]:
        """The k best by inner product, ties by id.

        Asks for more until the last score returned is below the k-th that the filter accepts, so that
        neither a tie nor a row that only the expression accepts can take a better one's place.
        """
        limit = min(k + 1, MAX_ROWS)
        expression = _both(plan.expression, _under(prefix))
        fields = ["id", "metadata"] if plan.check else ["id"]
        while True:
            with errors(f"search {self.name!r}"):
                hits = self.connection.client.search(
                    self.name,
                    data=[vector],
                    anns_field=field,
                    filter=expression,
                    limit=limit,
                    output_fields=fields,
                    search_params=search_params(index_type, limit),
                )[0]
            found = [
                Candidate(hit["entity"]["id"], float(hit["distance"]))
                for hit in hits
                if plan.accepts(hit["entity"].get("metadata", {}))
            ]
            settled = len(found) >= k and hits[-1]["distance"] < found[k - 1].score
            if settled or len(hits) < limit:
                break
            if limit == MAX_ROWS:
                found = [hit for d in DIGITS for hit in self.search(field, vector, k, plan, index_type, prefix + d)]
                break
            limit = min(4 * limit, MAX_ROWS)
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:k]

    def flush(self) -> None:
        """On Lite, indexes what was written (searching it otherwise takes 80 times as long)."""
        if self.connection.lite:
            with errors(f"flush {self.name!r}"):
                self.connection.client.flush(self.name)

    def load(self) -> None:
        """Makes it searchable."""
        with errors(f"load {self.name!r}"):
            self.connection.client.load_collection(self.name)

    def drop(self) -> None:
        """Deletes the collection and all in it."""
        with errors(f"drop {self.name!r}"):
            self.connection.client.drop_collection(self.name)

    def _query(self, expression: str, fields: Sequence[str], limit: int) -> list[Row]:
        with errors(f"read {self.name!r}"):
            return list(
                self.connection.client.query(self.name, filter=expression, output_fields=list(fields), limit=limit)
            )


class _Text(str):
    """A string that has no characters to iterate over: pymilvus "checks" every one of them, 5 ms a block."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(())


def _quick(value: object) -> object:
    return _Text(value) if type(value) is str else value


def _among(keys: Sequence[str]) -> str:
    # As the whole expression: Lite then looks the keys up instead of testing every row. Keys are hashes,
    # never text of a user's, and never go through `ids=`, which pymilvus does not escape.
    return f"{KEY} in {json.dumps(list(keys))}"


def _under(prefix: str) -> str:
    return f'{KEY} like "{prefix}%"' if prefix else ""


def _both(one: str, other: str) -> str:
    return f"({one}) and ({other})" if one and other else one or other


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _row_size(row: Row) -> int:
    return sum(_size(value) for value in row.values())


def _size(value: object) -> int:
    """About how many bytes a field takes in a request."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return len(json.dumps(value, ensure_ascii=False).encode())
    return int(getattr(value, "nbytes", 8))
