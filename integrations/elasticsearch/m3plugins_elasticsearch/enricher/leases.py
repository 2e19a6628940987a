"""Which worker has which changes: ledgers in an index of ours, changed by compare and set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.ledger import RELEASED, Claim, Ledger
from m3plugins_elasticsearch.enricher.places import Place
from m3plugins_elasticsearch.enricher.session import Session, Watcher, now
from m3plugins_elasticsearch.enricher.shards import Shard

PLACE = "m3-enricher."
"""Ahead of an index's name: where its ledgers and sessions are. Ahead, so that no wildcard of its owner takes them."""

_HASTE_S = 5.0
_NO_INDEX = "index_not_found_exception"
_MAPPING = {"worker": {"type": "keyword"}, "time": {"type": "date"}}


@dataclass(frozen=True)
class Entry:
    """A ledger as it was read.

    Attributes:
        shard: Number of its shard.
        ledger: What it says; a new one if there is none.
        condition: That nobody changed it since.
    """

    shard: int
    ledger: Ledger
    condition: Mapping[str, int | str] = field(default_factory=dict)


class Leases:
    """The ledgers of an index.

    Args:
        connection: To Elasticsearch.
        index: Its name.
    """

    def __init__(self, connection: Connection, index: str) -> None:
        self.place = Place(connection, PLACE + index, _MAPPING)
        self.watcher = Watcher(connection, self.place)
        self._connection = connection
        self._index = index

    def read(self, shards: Iterable[Shard]) -> dict[int, Entry]:
        """The ledgers of the shards, by number.

        Raises:
            PlaceGoneError: If somebody deleted them.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        known = {_key(shard.number): shard for shard in shards}
        ask = self._connection.client.mget
        answer = self._connection.read("read ledgers", lambda: ask(index=self.place.name, ids=sorted(known)))
        if any("error" in item and item["error"].get("type") == _NO_INDEX for item in answer["docs"]):
            raise self.place.gone()
        return {known[item["_id"]].number: _entry(known[item["_id"]], item) for item in answer["docs"]}

    def take(
        self, shard: Shard, entry: Entry, session: Session, upto: int, end: Callable[[Ledger], int]
    ) -> Claim | None:
        """Claims what a dead worker left, or the next changes; None if there is nothing to do, or all is taken.

        Args:
            shard: Whose changes.
            entry: Its ledger, as it was read last.
            session: Who claims.
            upto: The last change that may be claimed.
            end: Tells how far to take; it is asked only if there is something.
        """
        while True:
            ledger = entry.ledger
            ours = {session.id, RELEASED}
            left = ledger.left_by(ours | self.watcher.dead(ledger.sessions() - ours))
            if left is not None and left.session == session.id:
                return left
            if left is None and ledger.handed >= upto:
                return None
            if left is not None:
                new = ledger.taken_over(left, session.id)
            elif ledger.unread(upto):
                new = ledger.handing_out(end(ledger), session.id)
            else:
                new = ledger.passed(upto)
            if self._set(entry, new):
                return new.left_by({session.id})
            entry = self.read([shard])[shard.number]

    def settle(self, shard: Shard, claim: Claim, written: Iterable[int]) -> None:
        """Gives a claim back that is worked off; if it is somebody else's by now, it stays theirs.

        Args:
            shard: Whose changes they are.
            claim: What was taken.
            written: Sequence numbers of our own writes, none of which can be undone any more.
        """
        known = list(written)
        entry = self.read([shard])[shard.number]
        while not self._set(entry, entry.ledger.settled(claim, known)):
            entry = self.read([shard])[shard.number]

    def advance(self, shard: Shard, claim: Claim, after: int) -> Claim:
        """The claim less what is done of it; if it is somebody else's by now, it stays theirs.

        Args:
            shard: Whose changes they are.
            claim: What was taken.
            after: The last change that is done.
        """
        entry = self.read([shard])[shard.number]
        while not self._set(entry, entry.ledger.advanced(claim, after)):
            entry = self.read([shard])[shard.number]
        return Ledger(shard.history, claims=(claim,)).advanced(claim, after).claims[0]

    def release(self, shard: Shard, session: str) -> None:
        """Gives back what a session has not finished that ends in good order: not even that is worth waiting for.

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
        """Whether the ledger is as it is to be; not if somebody was faster."""
        condition = dict(entry.condition) or {"op_type": "create"}
        return self.place.write(_key(entry.shard), {**ledger.to_dict(), "time": now()}, **condition)


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
