"""Dead letters: the documents that cannot be enriched, with the reasons, in an index of ours."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3plugins_elasticsearch.bulk import CONFLICT, GONE, Action, IndexDroppedError, bulk, delete, failures, index
from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.heartbeat import now
from m3plugins_elasticsearch.enricher.shards import Shard, positions
from m3plugins_elasticsearch.enricher.system_index import SystemIndex

PREFIX = "m3-dead-letters."
"""Goes before an index's name, to name the index of its dead letters."""

_MAPPING: Mapping[str, Any] = {
    "id": {"type": "keyword"},
    "routing": {"type": "keyword"},
    "index": {"type": "keyword"},
    "shard": {"type": "integer"},
    "history": {"type": "keyword"},
    "seq_no": {"type": "long"},
    "reason": {"type": "text"},
    "time": {"type": "date"},
    "worker": {"type": "keyword"},
}
_PAGE = 500


@dataclass(frozen=True)
class DeadLetter:
    """The reason why a document cannot be enriched.

    Attributes:
        id: The document's.
        routing: The document's routing, if it has one of its own.
        shard: Number of its shard.
        history: The history of the shard.
        seq_no: The change that is meant: if the document has another one by now, the letter is void.
        reason: The fault.
    """

    id: str
    routing: str | None
    shard: int
    history: str
    seq_no: int
    reason: str


@dataclass(frozen=True)
class StoredDeadLetter:
    """A dead letter as it was read.

    Attributes:
        key: The id of the letter itself.
        letter: The letter.
        condition: Holds while nobody has written it anew.
    """

    key: str
    letter: DeadLetter
    condition: Mapping[str, int]


class DeadLetters:
    """Stores the dead letters of one index.

    Args:
        connection: The connection to Elasticsearch.
        index: Name of the index.
        worker: Name of the worker that writes.
    """

    def __init__(self, connection: Connection, index: str, worker: str) -> None:
        self.system_index = SystemIndex(connection, PREFIX + index, _MAPPING)
        self._connection = connection
        self._index = index
        self._worker = worker

    def known(self, shard: Shard, ids: Iterable[str]) -> dict[str, StoredDeadLetter]:
        """Reads the letters of documents of a shard, by the document's id."""
        found = self._stored([_key(shard.history, i) for i in ids])
        return {stored.letter.id: stored for stored in found.values()}

    def write(self, letters: Iterable[DeadLetter]) -> None:
        """Stores letters in place of those of older changes; one of a newer change stays.

        Raises:
            ElasticsearchIndexError: If one could not be stored.
        """
        more = {"index": self._index, "time": now(), "worker": self._worker}
        waiting = {_key(letter.history, letter.id): letter for letter in letters}
        while waiting:
            there = self._stored(waiting)
            waiting = {k: one for k, one in waiting.items() if k not in there or there[k].letter.seq_no < one.seq_no}
            conditions = {k: dict(there[k].condition) if k in there else {"op_type": "create"} for k in waiting}
            actions = [index(k, {**vars(letter), **more}, **conditions[k]) for k, letter in waiting.items()]
            waiting = {k: waiting[k] for k in self._bulk(actions)}

    def remove(self, letters: Iterable[StoredDeadLetter]) -> None:
        """Deletes letters, but for those that were written anew since they were read."""
        self._bulk([delete(stored.key, **stored.condition) for stored in letters])

    def count(self) -> int:
        """Counts the letters."""
        self._refresh()
        ask = self._connection.client.count
        return int(self._connection.read("count dead letters", lambda: ask(index=self.system_index.name))["count"])

    def scan(self) -> Iterator[list[StoredDeadLetter]]:
        """Reads all letters, in pages."""
        self._refresh()
        last = -1
        while hits := self._page(last):
            last = hits[-1]["_seq_no"]
            yield [_stored(hit) for hit in hits]

    def prune(self, stop: threading.Event) -> None:
        """Deletes the letters of documents that are not there any more, or that were changed since.

        Args:
            stop: Ends the search for them.
        """
        for page in self.scan():
            if stop.is_set():
                return
            shards = positions(self._connection, self._index).shards
            documents = self._documents([stored.letter for stored in page])
            self.remove(f for f, document in zip(page, documents, strict=True) if _is_void(f.letter, document, shards))

    def clear(self) -> None:
        """Deletes all letters."""
        for page in self.scan():
            self.remove(page)

    def _stored(self, keys: Collection[str]) -> dict[str, StoredDeadLetter]:
        if not keys:
            return {}
        ask = self._connection.client.mget
        answer = self._connection.read("read dead letters", lambda: ask(index=self.system_index.name, ids=list(keys)))
        return {item["_id"]: _stored(item) for item in answer["docs"] if item.get("found")}

    def _documents(self, letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
        """Reads the documents that the letters are about, without their sources."""
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
            "read dead letters",
            lambda: ask(index=self.system_index.name, query=query, sort=sort, size=_PAGE, seq_no_primary_term=True),
        )
        return list(answer["hits"]["hits"])

    def _bulk(self, actions: Sequence[Action]) -> list[str]:
        """Performs actions; returns those that were refused because somebody was faster."""
        if not actions:
            return []
        self.system_index.ensure()
        try:
            outcomes = list(bulk(self._connection, self.system_index.alias, actions, require_alias=True))
        except IndexDroppedError as err:
            raise self.system_index.gone() from err
        if failed := failures(outcomes, allowed=[CONFLICT, GONE]):
            msg = f"cannot write dead letters to {self.system_index.name!r}: {next(iter(failed.values()))}"
            raise ElasticsearchIndexError(msg)
        return [done.id for done in outcomes if done.status == CONFLICT]

    def _refresh(self) -> None:
        self.system_index.ensure()
        self._connection.patient().refresh(self.system_index.name)


def _stored(item: Mapping[str, Any]) -> StoredDeadLetter:
    letter = DeadLetter(**{name: item["_source"].get(name) for name in DeadLetter.__dataclass_fields__})
    condition = {"if_seq_no": item["_seq_no"], "if_primary_term": item["_primary_term"]}
    return StoredDeadLetter(item["_id"], letter, condition)


def _is_void(letter: DeadLetter, document: Mapping[str, Any], shards: Mapping[int, Shard]) -> bool:
    """Tells whether the change of a letter is gone; where nobody knows, it is not."""
    shard = shards.get(letter.shard)
    if shard is None or "error" in document:
        return False
    return shard.history != letter.history or document.get("_seq_no") != letter.seq_no


def _key(history: str, id: str) -> str:
    """Makes a letter's id: documents in several shards may have one, a later index of the name has other changes."""
    return hashlib.blake2b(f"{history}\0{id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
