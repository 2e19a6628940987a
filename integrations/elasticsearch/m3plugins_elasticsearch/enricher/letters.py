"""Dead letters: which documents cannot be enriched, and why, in an index of ours."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3plugins_elasticsearch.bulk import CONFLICT, GONE, Action, IndexDroppedError, bulk, delete, failures, index
from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.places import Place
from m3plugins_elasticsearch.enricher.session import now
from m3plugins_elasticsearch.enricher.shards import Shard, positions

PLACE = "m3-dead-letters."
"""Ahead of an index's name: where its dead letters are."""

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
class Letter:
    """Why a document cannot be enriched.

    Attributes:
        id: The document's.
        routing: The document's, if it has one of its own.
        shard: Where it is.
        history: Of the shard.
        seq_no: The change that this is of: if the document has another one by now, the letter is void.
        reason: What is wrong with it.
    """

    id: str
    routing: str | None
    shard: int
    history: str
    seq_no: int
    reason: str


@dataclass(frozen=True)
class Filed:
    """A letter as it was read.

    Attributes:
        key: Its own id.
        letter: What it says.
        condition: That nobody has written it anew since.
    """

    key: str
    letter: Letter
    condition: Mapping[str, int]


class DeadLetters:
    """Of one index.

    Args:
        connection: To Elasticsearch.
        index: Its name.
        worker: Who writes.
    """

    def __init__(self, connection: Connection, index: str, worker: str) -> None:
        self.place = Place(connection, PLACE + index, _MAPPING)
        self._connection = connection
        self._index = index
        self._worker = worker

    def known(self, shard: Shard, ids: Iterable[str]) -> dict[str, Filed]:
        """The letters of documents of a shard, by the document's id."""
        found = self._filed([_key(shard.history, i) for i in ids])
        return {filed.letter.id: filed for filed in found.values()}

    def write(self, letters: Iterable[Letter]) -> None:
        """Stores letters in place of those of older changes; one of a newer change stays.

        Raises:
            ElasticsearchIndexError: If one could not be stored.
        """
        more = {"index": self._index, "time": now(), "worker": self._worker}
        waiting = {_key(letter.history, letter.id): letter for letter in letters}
        while waiting:
            there = self._filed(waiting)
            waiting = {k: one for k, one in waiting.items() if k not in there or there[k].letter.seq_no < one.seq_no}
            conditions = {k: dict(there[k].condition) if k in there else {"op_type": "create"} for k in waiting}
            actions = [index(k, {**vars(letter), **more}, **conditions[k]) for k, letter in waiting.items()]
            waiting = {k: waiting[k] for k in self._bulk(actions)}

    def remove(self, letters: Iterable[Filed]) -> None:
        """Deletes letters, but for those that were written anew since they were read."""
        self._bulk([delete(filed.key, **filed.condition) for filed in letters])

    def count(self) -> int:
        """How many letters there are."""
        self._refresh()
        ask = self._connection.client.count
        return int(self._connection.read("count dead letters", lambda: ask(index=self.place.name))["count"])

    def scan(self) -> Iterator[list[Filed]]:
        """All of them, in pages."""
        self._refresh()
        last = -1
        while hits := self._page(last):
            last = hits[-1]["_seq_no"]
            yield [_filed(hit) for hit in hits]

    def prune(self, stop: threading.Event) -> None:
        """Deletes the letters of documents that are not there any more, or that were changed since.

        Args:
            stop: Ends it.
        """
        for page in self.scan():
            if stop.is_set():
                return
            shards = positions(self._connection, self._index).shards
            documents = self._documents([filed.letter for filed in page])
            self.remove(f for f, document in zip(page, documents, strict=True) if _is_void(f.letter, document, shards))

    def clear(self) -> None:
        """Deletes all of them."""
        for page in self.scan():
            self.remove(page)

    def _filed(self, keys: Collection[str]) -> dict[str, Filed]:
        if not keys:
            return {}
        ask = self._connection.client.mget
        answer = self._connection.read("read dead letters", lambda: ask(index=self.place.name, ids=list(keys)))
        return {item["_id"]: _filed(item) for item in answer["docs"] if item.get("found")}

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
            "read dead letters",
            lambda: ask(index=self.place.name, query=query, sort=sort, size=_PAGE, seq_no_primary_term=True),
        )
        return list(answer["hits"]["hits"])

    def _bulk(self, actions: Sequence[Action]) -> list[str]:
        """Does them; returns those that were refused because somebody was faster."""
        if not actions:
            return []
        self.place.ensure()
        try:
            outcomes = list(bulk(self._connection, self.place.alias, actions, require_alias=True))
        except IndexDroppedError as err:
            raise self.place.gone() from err
        if failed := failures(outcomes, allowed=[CONFLICT, GONE]):
            msg = f"cannot write dead letters to {self.place.name!r}: {next(iter(failed.values()))}"
            raise ElasticsearchIndexError(msg)
        return [done.id for done in outcomes if done.status == CONFLICT]

    def _refresh(self) -> None:
        self.place.ensure()
        self._connection.patient().refresh(self.place.name)


def _filed(item: Mapping[str, Any]) -> Filed:
    letter = Letter(**{name: item["_source"].get(name) for name in Letter.__dataclass_fields__})
    return Filed(item["_id"], letter, {"if_seq_no": item["_seq_no"], "if_primary_term": item["_primary_term"]})


def _is_void(letter: Letter, document: Mapping[str, Any], shards: Mapping[int, Shard]) -> bool:
    """Whether the document is not there any more, as the letter has it; not where nobody knows."""
    shard = shards.get(letter.shard)
    if shard is None or "error" in document:
        return False
    return shard.history != letter.history or document.get("_seq_no") != letter.seq_no


def _key(history: str, id: str) -> str:
    """Of a letter: documents in several shards may have one id, and a later index of the name has other changes."""
    return hashlib.blake2b(f"{history}\0{id}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
