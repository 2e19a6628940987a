"""Ledgers of who works on which changes, in an index of ours, changed by compare and set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.heartbeat import FailureDetector, Heartbeat, now
from m3plugins_elasticsearch.enricher.ledger import RELEASED, Claim, Ledger
from m3plugins_elasticsearch.enricher.shards import Shard
from m3plugins_elasticsearch.enricher.system_index import SystemIndex

PREFIX = "m3-enricher."
"""Goes before an index's name, to name the index of its ledgers and heartbeats: no wildcard of its owner takes it."""

_HASTE_S = 5.0
_NO_INDEX = "index_not_found_exception"
_MAPPING = {"worker": {"type": "keyword"}, "time": {"type": "date"}}


@dataclass(frozen=True)
class Entry:
    """A ledger as it was read.

    Attributes:
        shard: Number of its shard.
        ledger: The ledger; a new one if none is stored.
        condition: Holds while nobody has changed it.
    """

    shard: int
    ledger: Ledger
    condition: Mapping[str, int | str] = field(default_factory=dict)


class Leases:
    """The ledgers of an index.

    Args:
        connection: The connection to Elasticsearch.
        index: Name of the index.
    """

    def __init__(self, connection: Connection, index: str) -> None:
        self.system_index = SystemIndex(connection, PREFIX + index, _MAPPING)
        self.detector = FailureDetector(connection, self.system_index)
        self._connection = connection
        self._index = index

    def read(self, shards: Iterable[Shard]) -> dict[int, Entry]:
        """Reads the ledgers of the shards, by number.

        Raises:
            SystemIndexDeletedError: If somebody deleted them.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        known = {_key(shard.number): shard for shard in shards}
        ask = self._connection.client.mget
        answer = self._connection.read("read ledgers", lambda: ask(index=self.system_index.name, ids=sorted(known)))
        if any("error" in item and item["error"].get("type") == _NO_INDEX for item in answer["docs"]):
            raise self.system_index.gone()
        return {known[item["_id"]].number: _entry(known[item["_id"]], item) for item in answer["docs"]}

    def take(
        self, shard: Shard, entry: Entry, heartbeat: Heartbeat, upto: int, end: Callable[[Ledger], int]
    ) -> Claim | None:
        """Claims what a dead worker left, or the next changes; None if there is nothing to do, or all is taken.

        Args:
            shard: The shard.
            entry: Its ledger, as it was read last.
            heartbeat: The heartbeat of the worker that claims.
            upto: The last change that may be claimed.
            end: Tells how far to take; it is asked only if there is something.
        """
        while True:
            ledger = entry.ledger
            ours = {heartbeat.id, RELEASED}
            left = ledger.left_by(ours | self.detector.dead(ledger.sessions() - ours))
            if left is not None and left.session == heartbeat.id:
                return left
            if left is None and ledger.handed >= upto:
                return None
            if left is not None:
                new = ledger.taken_over(left, heartbeat.id)
            elif ledger.unread(upto):
                new = ledger.handing_out(end(ledger), heartbeat.id)
            else:
                new = ledger.passed(upto)
            if self._set(entry, new):
                return new.left_by({heartbeat.id})
            entry = self.read([shard])[shard.number]

    def settle(self, shard: Shard, claim: Claim, written: Iterable[int]) -> None:
        """Gives a claim back that is worked off; if it is somebody else's by now, it stays theirs.

        Args:
            shard: The shard.
            claim: The claim.
            written: Sequence numbers of our own writes, none of which can be undone any more.
        """
        known = list(written)
        entry = self.read([shard])[shard.number]
        while not self._set(entry, entry.ledger.settled(claim, known)):
            entry = self.read([shard])[shard.number]

    def advance(self, shard: Shard, claim: Claim, after: int) -> Claim:
        """Shortens a claim by what is done of it; if it is somebody else's by now, it stays theirs.

        Args:
            shard: The shard.
            claim: The claim.
            after: The last change that is done.
        """
        entry = self.read([shard])[shard.number]
        while not self._set(entry, entry.ledger.advanced(claim, after)):
            entry = self.read([shard])[shard.number]
        return Ledger(shard.history, claims=(claim,)).advanced(claim, after).claims[0]

    def release(self, shard: Shard, session: str) -> None:
        """Gives back what a worker that stops has not finished; not even that is worth waiting for.

        Args:
            shard: The shard.
            session: The id of the worker's heartbeat.

        Raises:
            ElasticsearchIndexError: If it cannot be done at once; then it counts as a worker that died.
        """
        client = self._connection.client.options(request_timeout=_HASTE_S)
        hasty = Leases(replace(self._connection, client=client, patience=0.0, waits=0.0), self._index)
        entry = hasty.read([shard])[shard.number]
        while not hasty._set(entry, entry.ledger.released(session)):
            entry = hasty.read([shard])[shard.number]

    def restart(self, shard: Shard) -> None:
        """Forgets what was done; all changes are handed out once more."""
        while not self._set(self.read([shard])[shard.number], Ledger(shard.history)):
            pass

    def _set(self, entry: Entry, ledger: Ledger) -> bool:
        """Stores a ledger; returns False if somebody was faster."""
        condition = dict(entry.condition) or {"op_type": "create"}
        return self.system_index.write(_key(entry.shard), {**ledger.to_dict(), "time": now()}, **condition)


def _key(shard: int) -> str:
    return f"shard-{shard}"


def _entry(shard: Shard, item: Mapping[str, Any]) -> Entry:
    fresh = Entry(shard.number, Ledger(shard.history))
    if "error" in item:
        msg = f"cannot read the ledger of shard {shard.number}: {item['error'].get('reason')}"
        raise ElasticsearchIndexError(msg)
    if not item["found"]:
        return fresh
    condition = {"if_seq_no": item["_seq_no"], "if_primary_term": item["_primary_term"]}
    ledger = Ledger.from_dict(item["_source"])
    return replace(fresh, ledger=ledger if ledger.history == shard.history else fresh.ledger, condition=condition)
