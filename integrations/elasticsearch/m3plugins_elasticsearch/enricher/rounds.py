"""One run of an enricher, round by round: look where the index is, claim changes, work them off."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.enriching import enrich
from m3plugins_elasticsearch.enricher.leases import Entry
from m3plugins_elasticsearch.enricher.ledger import ALONE, DEADLY, Claim, Ledger
from m3plugins_elasticsearch.enricher.metrics import Metrics, Tally, Timeline
from m3plugins_elasticsearch.enricher.pace import NotReadyError, Pace
from m3plugins_elasticsearch.enricher.places import PlaceGoneError
from m3plugins_elasticsearch.enricher.ranges import Range
from m3plugins_elasticsearch.enricher.session import LeaseLostError, Session
from m3plugins_elasticsearch.enricher.shards import Positions, Shard, positions
from m3plugins_elasticsearch.enricher.target import Target, open_target
from m3plugins_elasticsearch.enricher.write_back import StoppedError, WriteBack

KILLED = (
    f"{DEADLY} workers died while they worked on it, as they do where it takes more memory than there is; "
    "cut it or give them more, then enrich anew"
)
PRUNE_S = 600.0
"""About as often a worker that watches looks for void dead letters."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of `Enricher`, where they are explained."""

    worker: str
    follow: str
    lease_s: float
    poll_s: float
    batch: int


@dataclass(frozen=True)
class Round:
    """What a round did.

    Attributes:
        took: Whether there was something to work on.
        more: Whether there is more of it at once.
    """

    took: bool
    more: bool


class Rounds:
    """A run.

    Args:
        index: What was attached to first.
        options: Of the enricher.
        stop: Ends it after the current batch.
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
        self._tally, self._timeline, self._pace = Tally(), Timeline(), Pace(options.batch)
        self._target: Target | None = None
        self._session: Session | None = None
        self._held: dict[int, Shard] = {}
        self._visible: dict[str, int] = {}
        self._prune_at = 0.0
        self._error = ""

    def look(self) -> tuple[Positions, Target]:
        """Where the index is now; it is opened if it is another one than at the last look."""
        at = positions(self._index.writer.reader.connection, self._options.follow)
        if self._target is None or not self._target.is_at(at):
            self.leave()
            self._timeline = Timeline()
            self._target = open_target(self._index, at, self._options.follow, self._options.worker)
        for shard in at.shards.values():
            self._timeline.see(shard.number, shard.checkpoint)
        return at, self._target

    def round(self, at: Positions, target: Target, goal: Mapping[int, int]) -> Round:
        """Works off one claim of each shard.

        Args:
            at: Where the index is.
            target: The index.
            goal: The last change of each shard that counts.

        Raises:
            LeaseLostError: If others took this worker for dead; the next round begins anew.
            ElasticsearchIndexError: If Elasticsearch refuses or stays away; the claim is kept.
        """
        session = self._session = self._session or self._new_session(target)
        shards = [shard for shard in at.shards.values() if shard.number in goal]
        entries = target.leases.read(shards)
        self.behind = sum(entries[shard.number].ledger.behind(goal[shard.number]) for shard in shards)
        self._error = ""
        self._on_progress(self.metrics())
        took = more = False
        try:
            for shard in random.sample(shards, len(shards)):
                if not self._stop.is_set():
                    upto = goal[shard.number]
                    claim = self._claim(at, target, session, entries[shard.number], upto)
                    took, more = took or claim is not None, more or (claim is not None and claim.upto < upto)
        except LeaseLostError:
            self.leave_session()
            raise
        except StoppedError:
            pass
        return Round(took, more)

    def restart(self, at: Positions, target: Target) -> None:
        """Forgets what was settled, dead letters too."""
        target.letters.clear()
        for shard in at.shards.values():
            target.leases.restart(shard)

    def prune(self, target: Target) -> None:
        """Deletes void dead letters, now and then."""
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_S * random.uniform(0.5, 1.5)
            target.letters.prune(self._stop)

    def failed(self, err: Exception) -> None:
        """Tells of an error, after which nobody's silence means anything."""
        self._error = str(err)
        if isinstance(err, PlaceGoneError):
            self.leave()
        if self._target is not None:
            self._target.leases.watcher.forget()
        self._on_progress(self.metrics())

    def metrics(self) -> Metrics:
        """How it is doing."""
        median, high = self._tally.lags()
        return Metrics(
            **self._tally.counts(),
            worker=self._options.worker,
            index=self._target.index.name if self._target else self._index.name,
            behind=self.behind,
            lag_s=median,
            lag_p99_s=high,
            seconds=self._tally.seconds,
            error=self._error,
        )

    def counts(self) -> dict[str, int]:
        """What was done."""
        return self._tally.counts()

    def leave(self) -> None:
        """Lets go of the index."""
        self.leave_session()
        self._target = None

    def leave_session(self) -> None:
        """Lets go of all claims, for others to take."""
        session, self._session = self._session, None
        held, self._held = self._held, {}
        if session is None:
            return
        for shard in held.values():
            if self._target is not None:
                with suppress(ElasticsearchIndexError):
                    self._target.leases.release(shard, session.id)
        session.end()

    def _new_session(self, target: Target) -> Session:
        options = self._options
        return Session(target.connection, target.leases.place, options.worker, options.lease_s).start()

    def _claim(self, at: Positions, target: Target, session: Session, entry: Entry, upto: int) -> Claim | None:
        """Takes a claim and works it off; None if there was none."""
        shard = at.shards[entry.shard]

        def end(ledger: Ledger) -> int:
            if upto > self._visible.get(shard.history, -1):
                target.feed.refresh()
                self._visible |= {shard.history: shard.checkpoint for shard in at.shards.values()}
            return target.feed.end(shard.number, ledger.handed, upto, ledger.written, self._pace.documents)

        claim = target.leases.take(shard, entry, session, upto, end)
        if claim is None:
            return None
        if claim.upto <= entry.ledger.handed:  # it was somebody's before: what he wrote for it is to be seen
            target.feed.refresh()
        self._held[shard.number] = shard
        started = time.monotonic()
        writer = WriteBack(target, shard, session, self._tally, self._lag(shard), self._stop)
        try:
            rest = self._work_off(writer, claim, entry.ledger.written)
        except MemoryError:
            del self._held[shard.number]  # it counts as a death
            raise
        self._pace.took(time.monotonic() - started)
        session.check()
        target.leases.settle(shard, rest, self._lasting(target, shard, writer.numbers))
        del self._held[shard.number]
        return claim

    def _work_off(self, writer: WriteBack, claim: Claim, without: Sequence[Range]) -> Claim:
        """Brings the documents of a claim up to date; returns what is left of it to settle.

        If several workers died at it, one by one: then it is known which document it is.
        """
        target, shard = writer.target, writer.shard
        progressed = lambda: self._on_progress(self.metrics())  # noqa: E731
        while claim.deaths >= ALONE:
            upto = target.feed.end(shard.number, claim.after, claim.upto, without, 1)
            fault = KILLED if claim.deaths >= DEADLY else ""
            enrich(writer, replace(claim, upto=upto), without, progressed, fault=fault)
            if upto >= claim.upto:
                return claim
            writer.session.check()
            claim = target.leases.advance(shard, claim, upto)
        enrich(writer, claim, without, progressed)
        return claim

    def _lag(self, shard: Shard) -> Callable[[int], float | None]:
        timeline = self._timeline
        return lambda seq_no: timeline.since(shard.number, seq_no)

    def _lasting(self, target: Target, shard: Shard, numbers: list[int]) -> list[int]:
        """Those of our writes that no crash can undo any more: another write might get the number then."""
        if not numbers:
            return []
        now = positions(target.connection, target.index.name).shards.get(shard.number, shard)
        return [number for number in numbers if number <= now.checkpoint and now.history == shard.history]


def check_whole(at: Positions, target: Target) -> None:
    """Passes if all shards are there.

    Raises:
        NotReadyError: If not.
    """
    if len(at.shards) < target.shards:
        msg = f"{target.shards - len(at.shards)} of {target.shards} shards of {at.index!r} have no active primary"
        raise NotReadyError(msg)
