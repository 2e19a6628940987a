"""The run of an enricher, round by round: it looks where the index is, claims changes and works them off."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.backoff import NotReadyError
from m3plugins_elasticsearch.enricher.batch_size import BatchSize
from m3plugins_elasticsearch.enricher.enriching import enrich
from m3plugins_elasticsearch.enricher.heartbeat import Heartbeat, LeaseLostError
from m3plugins_elasticsearch.enricher.leases import Entry
from m3plugins_elasticsearch.enricher.ledger import ALONE, DEADLY, Claim, Ledger
from m3plugins_elasticsearch.enricher.metrics import Metrics, Tally, Timeline
from m3plugins_elasticsearch.enricher.ranges import Range
from m3plugins_elasticsearch.enricher.shards import Positions, Shard, positions
from m3plugins_elasticsearch.enricher.system_index import SystemIndexDeletedError
from m3plugins_elasticsearch.enricher.watched_index import WatchedIndex, open_watched_index
from m3plugins_elasticsearch.enricher.write_back import StoppedError, WriteBack

KILLED = (
    f"{DEADLY} workers died while they worked on it, as they do where it takes more memory than there is; "
    "cut it or give them more, then enrich anew"
)
PRUNE_S = 600.0
"""About as often a worker that watches looks for void dead letters."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of an `Enricher`, which explains them."""

    worker: str
    follow: str
    lease_s: float
    poll_s: float
    batch: int


@dataclass(frozen=True)
class Round:
    """The outcome of a round.

    Attributes:
        took: Whether there was something to work on.
        more: Whether there is more of it at once.
    """

    took: bool
    more: bool


class Run:
    """Enriches in rounds, until the caller has seen enough of them.

    Args:
        index: The index that was attached to first.
        options: The options of the enricher.
        stop: Ends the run after the current batch.
        on_progress: Called after each batch and each look.
    """

    def __init__(
        self, index: AttachedIndex, options: Options, stop: threading.Event, on_progress: Callable[[Metrics], None]
    ) -> None:
        self.behind = 0
        self._index = index
        self._options = options
        self._stop = stop
        self._on_progress = on_progress
        self._tally, self._timeline, self._batch_size = Tally(), Timeline(), BatchSize(options.batch)
        self._watched: WatchedIndex | None = None
        self._heartbeat: Heartbeat | None = None
        self._held: dict[int, Shard] = {}
        self._visible: dict[str, int] = {}
        self._prune_at = 0.0
        self._error = ""

    def look(self) -> tuple[Positions, WatchedIndex]:
        """Finds where the index is now, and opens it if it is another one than at the last look."""
        at = positions(self._index.store.connection, self._options.follow)
        if self._watched is None or not self._watched.is_at(at):
            self.leave()
            self._timeline = Timeline()
            self._watched = open_watched_index(self._index, at, self._options.follow, self._options.worker)
        for shard in at.shards.values():
            self._timeline.see(shard.number, shard.checkpoint)
        return at, self._watched

    def round(self, at: Positions, watched: WatchedIndex, goal: Mapping[int, int]) -> Round:
        """Works off one claim of each shard.

        Args:
            at: The positions of its shards.
            watched: The index.
            goal: The last change of each shard that counts.

        Raises:
            LeaseLostError: If others took this worker for dead; the next round begins anew.
            ElasticsearchIndexError: If Elasticsearch refuses or stays away; the claim is kept.
        """
        heartbeat = self._heartbeat = self._heartbeat or self._new_heartbeat(watched)
        shards = [shard for shard in at.shards.values() if shard.number in goal]
        entries = watched.leases.read(shards)
        self.behind = sum(entries[shard.number].ledger.behind(goal[shard.number]) for shard in shards)
        self._error = ""
        self._on_progress(self.metrics())
        took = more = False
        try:
            for shard in random.sample(shards, len(shards)):
                if not self._stop.is_set():
                    upto = goal[shard.number]
                    claim = self._claim(at, watched, heartbeat, entries[shard.number], upto)
                    took, more = took or claim is not None, more or (claim is not None and claim.upto < upto)
        except LeaseLostError:
            self.release_claims()
            raise
        except StoppedError:
            pass
        return Round(took, more)

    def restart(self, at: Positions, watched: WatchedIndex) -> None:
        """Forgets what was settled, dead letters too."""
        watched.dead_letters.clear()
        for shard in at.shards.values():
            watched.leases.restart(shard)

    def prune(self, watched: WatchedIndex) -> None:
        """Deletes void dead letters, now and then."""
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_S * random.uniform(0.5, 1.5)
            watched.dead_letters.prune(self._stop)

    def failed(self, err: Exception) -> None:
        """Reports an error, after which nobody's silence means anything."""
        self._error = str(err)
        if isinstance(err, SystemIndexDeletedError):
            self.leave()
        if self._watched is not None:
            self._watched.leases.detector.forget()
        self._on_progress(self.metrics())

    def metrics(self) -> Metrics:
        """Returns the metrics up to now."""
        median, high = self._tally.lags()
        return Metrics(
            **self._tally.counts(),
            worker=self._options.worker,
            index=self._watched.index.name if self._watched else self._index.name,
            behind=self.behind,
            lag_s=median,
            lag_p99_s=high,
            seconds=self._tally.seconds,
            error=self._error,
        )

    def counts(self) -> dict[str, int]:
        """Counts what was done, by name."""
        return self._tally.counts()

    def leave(self) -> None:
        """Lets go of the index."""
        self.release_claims()
        self._watched = None

    def release_claims(self) -> None:
        """Lets go of all claims, for others to take."""
        heartbeat, self._heartbeat = self._heartbeat, None
        held, self._held = self._held, {}
        if heartbeat is None:
            return
        for shard in held.values():
            if self._watched is not None:
                with suppress(ElasticsearchIndexError):
                    self._watched.leases.release(shard, heartbeat.id)
        heartbeat.end()

    def _new_heartbeat(self, watched: WatchedIndex) -> Heartbeat:
        options = self._options
        return Heartbeat(watched.connection, watched.leases.system_index, options.worker, options.lease_s).start()

    def _claim(
        self, at: Positions, watched: WatchedIndex, heartbeat: Heartbeat, entry: Entry, upto: int
    ) -> Claim | None:
        """Takes a claim and works it off; None if there was none."""
        shard = at.shards[entry.shard]

        def end(ledger: Ledger) -> int:
            if upto > self._visible.get(shard.history, -1):
                watched.feed.refresh()
                self._visible |= {shard.history: shard.checkpoint for shard in at.shards.values()}
            return watched.feed.end(shard.number, ledger.handed, upto, ledger.written, self._batch_size.documents)

        claim = watched.leases.take(shard, entry, heartbeat, upto, end)
        if claim is None:
            return None
        if claim.upto <= entry.ledger.handed:  # it was somebody's before: what he wrote for it is to be seen
            watched.feed.refresh()
        self._held[shard.number] = shard
        started = time.monotonic()
        writer = WriteBack(watched, shard, heartbeat, self._tally, self._lag(shard), self._stop)
        try:
            rest = self._work_off(writer, claim, entry.ledger.written)
        except MemoryError:
            del self._held[shard.number]  # it counts as a death
            raise
        self._batch_size.adapt(time.monotonic() - started)
        heartbeat.check()
        watched.leases.settle(shard, rest, self._lasting(watched, shard, writer.numbers))
        del self._held[shard.number]
        return claim

    def _work_off(self, writer: WriteBack, claim: Claim, without: Sequence[Range]) -> Claim:
        """Brings the documents of a claim up to date; returns what is left of it to settle.

        If several workers died at it, one by one: then it is known which document it is.
        """
        watched, shard = writer.watched, writer.shard
        progressed = lambda: self._on_progress(self.metrics())  # noqa: E731
        while claim.deaths >= ALONE:
            upto = watched.feed.end(shard.number, claim.after, claim.upto, without, 1)
            fault = KILLED if claim.deaths >= DEADLY else ""
            enrich(writer, replace(claim, upto=upto), without, progressed, fault=fault)
            if upto >= claim.upto:
                return claim
            writer.heartbeat.check()
            claim = watched.leases.advance(shard, claim, upto)
        enrich(writer, claim, without, progressed)
        return claim

    def _lag(self, shard: Shard) -> Callable[[int], float | None]:
        timeline = self._timeline
        return lambda seq_no: timeline.since(shard.number, seq_no)

    def _lasting(self, watched: WatchedIndex, shard: Shard, numbers: list[int]) -> list[int]:
        """Returns the writes that no crash can undo any more: after one, another write might get the number."""
        if not numbers:
            return []
        now = positions(watched.connection, watched.index.name).shards.get(shard.number, shard)
        return [number for number in numbers if number <= now.checkpoint and now.history == shard.history]


def check_whole(at: Positions, watched: WatchedIndex) -> None:
    """Passes if all shards are there.

    Raises:
        NotReadyError: If not.
    """
    if len(at.shards) < watched.shards:
        msg = f"{watched.shards - len(at.shards)} of {watched.shards} shards of {at.index!r} have no active primary"
        raise NotReadyError(msg)
