"""Heartbeats: each worker has a document of its own, which it writes again and again.

A session lives as long as its document. Others watch the document change; where it has not for as long as it said,
by their own clock, they delete it, on condition that it has not changed since. So no clocks are compared, and a worker
that was taken for dead learns of it at its next beat.
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
from m3plugins_elasticsearch.enricher.system_index import SystemIndex

_BEATS_PER_LEASE = 5


class LeaseLostError(RuntimeError):
    """The others take this worker for dead, and its claims for theirs."""


def key(session: str) -> str:
    """Returns the id of a session's document."""
    return f"session-{session}"


class Heartbeat:
    """Shows that a worker is alive; its `id` is the session that ledgers name.

    Args:
        connection: The connection to Elasticsearch.
        system_index: The index of the documents.
        worker: Name of the worker, for people.
        lease_s: Seconds without a beat after which the worker counts as dead.
    """

    def __init__(self, connection: Connection, system_index: SystemIndex, worker: str, lease_s: float) -> None:
        self.id = uuid.uuid4().hex
        self._client = connection.client.options(request_timeout=max(1.0, lease_s / 3), max_retries=0)
        self._system_index = system_index
        self._about = {"worker": worker, "host": platform.node(), "pid": os.getpid(), "lease_s": lease_s}
        self._lease_s = lease_s
        self._beats = 0
        self._until = 0.0
        self._lost = False
        self._beating = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="m3-heartbeat", daemon=True)

    def start(self) -> Self:
        """Beats for the first time, and goes on in a thread."""
        started = time.monotonic()
        self._system_index.write(key(self.id), {**self._about, "signs": 0, "time": now()})
        self._until = started + self._lease_s
        self._thread.start()
        return self

    def check(self) -> None:
        """Passes as long as the claims are this worker's.

        Raises:
            LeaseLostError: If they may be others' by now.
        """
        if not self._lost and time.monotonic() > self._until:
            self._beat()  # the node may have been away, for the others too
        if self._lost or time.monotonic() > self._until:
            msg = f"the session {self.id} gave no sign for {self._lease_s} s, its claims are others' now"
            raise LeaseLostError(msg)

    def end(self) -> None:
        """Ends the session, so that others take what is left at once; if nobody hears of it, they will find out."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(ApiError, TransportError):
            self._client.delete(index=self._system_index.alias, id=key(self.id))
        self._lost = True

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(self._lease_s / _BEATS_PER_LEASE):
            self._beat()

    def _beat(self) -> None:
        with self._beating:
            started = time.monotonic()
            self._beats += 1
            try:
                self._client.update(
                    index=self._system_index.alias,
                    id=key(self.id),
                    doc={"signs": self._beats, "time": now()},
                    require_alias=True,
                    retry_on_conflict=3,
                )
                self._until = started + self._lease_s
            except NotFoundError:
                self._lost = True
            except (ApiError, TransportError):  # the next one may get through
                pass


@dataclass(frozen=True)
class _Beat:
    seq_no: int
    primary_term: int
    seen: float


class FailureDetector:
    """Tells which other workers are dead, by their heartbeats.

    Args:
        connection: The connection to Elasticsearch.
        system_index: The index of their documents.
    """

    def __init__(self, connection: Connection, system_index: SystemIndex) -> None:
        self._connection = connection
        self._system_index = system_index
        self._beats: dict[str, _Beat] = {}

    def forget(self) -> None:
        """Begins anew: while Elasticsearch was away nobody could beat."""
        self._beats.clear()

    def dead(self, sessions: Collection[str]) -> set[str]:
        """Returns the sessions that are over, as those are that have been silent for too long."""
        if not sessions:
            return set()
        ids = {key(session): session for session in sessions}
        ask = self._connection.client.mget
        answer = self._connection.read("read sessions", lambda: ask(index=self._system_index.name, ids=sorted(ids)))
        return {ids[item["_id"]] for item in answer["docs"] if self._is_dead(item)}

    def _is_dead(self, item: dict[str, Any]) -> bool:
        name = item["_id"]
        if "error" in item:  # nobody knows
            return False
        if not item["found"]:
            self._beats.pop(name, None)
            return True
        beat = _Beat(item["_seq_no"], item["_primary_term"], time.monotonic())
        last = self._beats.get(name)
        if last is None or last.seq_no != beat.seq_no:
            self._beats[name] = beat
            return False
        return beat.seen - last.seen > item["_source"]["lease_s"] and self._buried(name, beat)

    def _buried(self, name: str, beat: _Beat) -> bool:
        """Ends a session, unless it has just beaten."""
        condition: dict[str, Any] = {"if_seq_no": beat.seq_no, "if_primary_term": beat.primary_term}
        connection, end = self._connection, self._connection.client.delete
        with errors("end a session"):
            try:
                persist(lambda: end(index=self._system_index.alias, id=name, **condition), connection.patience)
            except ConflictError:
                return False
            except NotFoundError:
                pass
        self._beats.pop(name, None)
        return True


def now() -> str:
    """Returns the time, for people."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
