"""Dead letters: which documents cannot be enriched, and why, in an index of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3plugins_elasticsearch.bulk import bulk, delete, failures, index
from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.leases import ensure
from m3plugins_elasticsearch.enricher.session import now

PLACE = "m3-dead-letters."
"""Ahead of an index's name: where its dead letters are."""

_MAPPING: Mapping[str, Any] = {
    "id": {"type": "keyword"},
    "routing": {"type": "keyword"},
    "index": {"type": "keyword"},
    "shard": {"type": "integer"},
    "seq_no": {"type": "long"},
    "reason": {"type": "text"},
    "time": {"type": "date"},
    "worker": {"type": "keyword"},
}
_PAGE = 500


@dataclass(frozen=True)
class Letter:
    """Why a document cannot be enriched.

    Attributes:
        id: The document's.
        routing: The document's, if it has one of its own.
        shard: Where it is.
        seq_no: The change that this is of: if the document has another one by now, the letter is void.
        reason: What is wrong with it.
    """

    id: str
    routing: str | None
    shard: int
    seq_no: int
    reason: str


class DeadLetters:
    """Of one index.

    Args:
        connection: To Elasticsearch.
        index: Its name.
        worker: Who writes.
    """

    def __init__(self, connection: Connection, index: str, worker: str) -> None:
        self.place = PLACE + index
        self._connection = connection
        self._index = index
        self._worker = worker

    def ensure(self) -> None:
        """Makes the place, unless it is there."""
        ensure(self._connection, self.place, _MAPPING)

    def known(self, shard: int, ids: Sequence[str]) -> dict[str, int]:
        """Which change each letter is of, by the id of the document."""
        if not ids:
            return {}
        names = {_key(shard, i): i for i in ids}
        ask = self._connection.client.mget
        answer = self._connection.read(
            "read dead letters", lambda: ask(index=self.place, ids=list(names), source_includes=["seq_no"])
        )
        return {names[item["_id"]]: item["_source"]["seq_no"] for item in answer["docs"] if item.get("found")}

    def write(self, letters: Sequence[Letter]) -> None:
        """Stores letters, in place of older ones of the same documents.

        Raises:
            ElasticsearchIndexError: If one could not be stored.
        """
        more = {"index": self._index, "time": now(), "worker": self._worker}
        self._bulk([index(_key(letter.shard, letter.id), {**vars(letter), **more}) for letter in letters])

    def remove(self, shard: int, ids: Sequence[str]) -> None:
        """Deletes the letters of these documents."""
        self._bulk([delete(_key(shard, i)) for i in ids])

    def count(self) -> int:
        """How many letters there are."""
        self._refresh()
        ask = self._connection.client.count
        return int(self._connection.read("count dead letters", lambda: ask(index=self.place))["count"])

    def scan(self) -> Iterator[list[Letter]]:
        """All of them, in pages."""
        self._refresh()
        last = -1
        while hits := self._page(last):
            last = hits[-1]["sort"][0]
            yield [Letter(**{name: hit["_source"][name] for name in Letter.__dataclass_fields__}) for hit in hits]

    def prune(self) -> None:
        """Deletes the letters of documents that are not there any more, or that were changed since."""
        for letters in self.scan():
            for letter, item in zip(letters, self._documents(letters), strict=True):
                if "error" not in item and item.get("_seq_no") != letter.seq_no:
                    self.remove(letter.shard, [letter.id])

    def clear(self) -> None:
        """Deletes all of them."""
        for letters in self.scan():
            self._bulk([delete(_key(letter.shard, letter.id)) for letter in letters])

    def _documents(self, letters: Sequence[Letter]) -> list[dict[str, Any]]:
        """What the letters are of, as it is now, without the sources."""
        ask = self._connection.client.mget
        docs: list[dict[str, Any]] = [{"_id": letter.id, "_source": False} for letter in letters]
        for letter, asked in zip(letters, docs, strict=True):
            if letter.routing is not None:
                asked["routing"] = letter.routing
        return list(self._connection.read("read documents", lambda: ask(index=self._index, docs=docs))["docs"])

    def _page(self, last: int) -> list[dict[str, Any]]:
        ask = self._connection.client.search
        query, sort = {"range": {"_seq_no": {"gt": last}}}, [{"_seq_no": "asc"}]
        answer = self._connection.read(
            "read dead letters", lambda: ask(index=self.place, query=query, sort=sort, size=_PAGE)
        )
        return list(answer["hits"]["hits"])

    def _bulk(self, actions: list[Any]) -> None:
        if failed := failures(bulk(self._connection, self.place, actions), allowed=[404]):
            msg = f"cannot write dead letters to {self.place!r}: {next(iter(failed.values()))}"
            raise ElasticsearchIndexError(msg)

    def _refresh(self) -> None:
        self._connection.patient().refresh(self.place)


def _key(shard: int, id: str) -> str:  # noqa: A002
    """Of a letter: documents in several shards may have one id."""
    return hashlib.blake2b(f"{shard}\0{id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
