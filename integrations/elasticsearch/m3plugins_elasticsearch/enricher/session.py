"""That a worker is alive: a document of its own, which it writes again and again.

A session lives as long as its document. Others watch the document change; where it has not for as long as it said,
by the watcher's own clock, they delete it, on condition that it has not changed since. So no clocks are compared,
and a worker that was taken for dead learns of it by its next sign of life.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from elasticsearch import ApiError, ConflictError, NotFoundError, TransportError
from typing_extensions import Self

from m3plugins_elasticsearch.client import Connection, errors, persist
from m3plugins_elasticsearch.enricher.places import Place

_SIGNS_PER_LEASE = 5


class LeaseLostError(RuntimeError):
    """The others take this worker for dead, and its claims for theirs."""


def key(session: str) -> str:
    """Id of the document."""
    return f"session-{session}"


class Session:
    """A worker's own.

    Args:
        connection: To Elasticsearch.
        place: Where the documents are.
        worker: Its name, for people.
        lease_s: Seconds without a sign after which it counts as dead.
    """

    def __init__(self, connection: Connection, place: Place, worker: str, lease_s: float) -> None:
        self.id = uuid.uuid4().hex
        self._client = connection.client.options(request_timeout=max(1.0, lease_s / 3), max_retries=0)
        self._place = place
        self._about = {"worker": worker, "host": platform.node(), "pid": os.getpid(), "lease_s": lease_s}
        self._lease_s = lease_s
        self._signs = 0
        self._until = 0.0
        self._lost = False
        self._signing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="m3-session", daemon=True)

    def start(self) -> Self:
        """Gives the first sign, and goes on."""
        started = time.monotonic()
        self._place.write(key(self.id), {**self._about, "signs": 0, "time": now()})
        self._until = started + self._lease_s
        self._thread.start()
        return self

    def check(self) -> None:
        """Passes while the claims are this worker's.

        Raises:
            LeaseLostError: If they may be others' by now.
        """
        if not self._lost and time.monotonic() > self._until:
            self._sign()  # the node may have been away, for the others too
        if self._lost or time.monotonic() > self._until:
            msg = f"the session {self.id} gave no sign for {self._lease_s} s, its claims are others' now"
            raise LeaseLostError(msg)

    def end(self) -> None:
        """Dies, so that others can take what is left at once; if nobody hears of it, they will find out."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(ApiError, TransportError):
            self._client.delete(index=self._place.alias, id=key(self.id))
        self._lost = True

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(self._lease_s / _SIGNS_PER_LEASE):
            self._sign()

    def _sign(self) -> None:
        with self._signing:
            started = time.monotonic()
            self._signs += 1
            try:
                self._client.update(
                    index=self._place.alias,
                    id=key(self.id),
                    doc={"signs": self._signs, "time": now()},
                    require_alias=True,
                    retry_on_conflict=3,
                )
                self._until = started + self._lease_s
            except NotFoundError:
                self._lost = True
            except (ApiError, TransportError):  # the next one may get through
                pass


@dataclass(frozen=True)
class _Sign:
    seq_no: int
    primary_term: int
    seen: float


class Watcher:
    """Watches the sessions of others.

    Args:
        connection: To Elasticsearch.
        place: Where their documents are.
    """

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection = connection
        self._place = place
        self._signs: dict[str, _Sign] = {}

    def forget(self) -> None:
        """Begins anew: while Elasticsearch was away nobody could give a sign."""
        self._signs.clear()

    def dead(self, sessions: Collection[str]) -> set[str]:
        """Those of the sessions that are over; what has been silent for too long, is."""
        if not sessions:
            return set()
        ids = {key(session): session for session in sessions}
        ask = self._connection.client.mget
        answer = self._connection.read("read sessions", lambda: ask(index=self._place.name, ids=sorted(ids)))
        return {ids[item["_id"]] for item in answer["docs"] if self._is_dead(item)}

    def _is_dead(self, item: dict[str, Any]) -> bool:
        name = item["_id"]
        if "error" in item:  # nobody knows
            return False
        if not item["found"]:
            self._signs.pop(name, None)
            return True
        sign = _Sign(item["_seq_no"], item["_primary_term"], time.monotonic())
        last = self._signs.get(name)
        if last is None or last.seq_no != sign.seq_no:
            self._signs[name] = sign
            return False
        return sign.seen - last.seen > item["_source"]["lease_s"] and self._buried(name, sign)

    def _buried(self, name: str, sign: _Sign) -> bool:
        """Ends a session, unless it has just given a sign."""
        condition: dict[str, Any] = {"if_seq_no": sign.seq_no, "if_primary_term": sign.primary_term}
        connection, end = self._connection, self._connection.client.delete
        with errors("end a session"):
            try:
                persist(lambda: end(index=self._place.alias, id=name, **condition), connection.patience)
            except ConflictError:
                return False
            except NotFoundError:
                pass
        self._signs.pop(name, None)
        return True


def now() -> str:
    """The time, for people."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
