"""Metrics of an enricher: the work that it did, and how far behind it is."""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_REMEMBERED = 1000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of what became of the changes that this worker saw.

    Attributes:
        enriched: Documents encoded and written back.
        annotated: Documents whose metadata alone had changed: written back, not encoded.
        unchanged: Changes that needed nothing, such as a write-back.
        conflicts: Documents that somebody changed between our reading and our write-back, which was refused; the
            newer change is in the feed. (A write-back whose answer was lost looks the same.)
        gone: Documents that were deleted meanwhile.
        dead: Documents that cannot be enriched; each has a dead letter with the reason.
        truncated: Enriched documents whose text is longer than the model reads.
    """

    enriched: int = 0
    annotated: int = 0
    unchanged: int = 0
    conflicts: int = 0
    gone: int = 0
    dead: int = 0
    truncated: int = 0


@dataclass(frozen=True, kw_only=True)
class EnrichReport(Counts):
    """The report of one `Enricher.run_once`.

    Attributes:
        dead_letters: Documents of the index that cannot be enriched, whoever found out, and when.
        completed: Whether everything that was there at the start is settled; not if it was stopped before.
        seconds: Duration of the run.
    """

    dead_letters: int
    completed: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Metrics(Counts):
    """The metrics of an enricher since it started.

    Attributes:
        worker: Name of the worker.
        index: Name of the index that it is at.
        behind: Changes that are not settled, by this worker or another, as of the last look.
        lag_s: Seconds between the moment when this worker first could see a change and its write-back, the median
            of the last thousand; None if there was none. It looks every `poll_s`, so that much may be missing.
        lag_p99_s: The same, the 99th percentile.
        seconds: Time since it started.
        error: The reason why it cannot go on for the moment; "" if it can.
    """

    worker: str
    index: str
    behind: int
    lag_s: float | None
    lag_p99_s: float | None
    seconds: float
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The findings of a full comparison; the first five counts are of all documents.

    Attributes:
        enriched: Documents that have the vectors of their text, and what their metadata are found by.
        stale: Documents that have those of an older text, of older metadata or of another model.
        missing: Documents that have none.
        orphaned: Documents that have some of our fields and not all of them.
        dead: Documents that cannot be enriched.
        examples: Some ids of those that are not enriched, by what they are.
    """

    enriched: int = 0
    stale: int = 0
    missing: int = 0
    orphaned: int = 0
    dead: int = 0
    examples: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.enriched + self.stale + self.missing + self.orphaned + self.dead

    @property
    def complete(self) -> bool:
        """Whether every document is enriched."""
        return self.enriched == self.documents


class Tally:
    """Counts as the work goes on, from several threads."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._lags: deque[float] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Adds to the counts of these names."""
        with self._lock:
            self._counts.update(counts)

    def wrote(self, lag_s: float | None) -> None:
        """Notes how long a change took to be written back."""
        if lag_s is not None:
            with self._lock:
                self._lags.append(lag_s)

    @property
    def seconds(self) -> float:
        """Time since the start, in seconds."""
        return time.monotonic() - self.started

    def counts(self) -> dict[str, int]:
        """Returns the counts by name."""
        with self._lock:
            return {name: self._counts[name] for name in Counts.__dataclass_fields__}

    def lags(self) -> tuple[float | None, float | None]:
        """Returns the median lag and its 99th percentile, in seconds."""
        with self._lock:
            ordered = sorted(self._lags)
        if not ordered:
            return None, None
        return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


class Timeline:
    """Remembers when changes were first known to be there."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[deque[int], deque[float]]] = {}

    def see(self, shard: int, checkpoint: int) -> None:
        """Notes that all changes of a shard up to this one are there now."""
        numbers, times = self._seen.setdefault(shard, (deque(maxlen=_REMEMBERED), deque(maxlen=_REMEMBERED)))
        if not numbers or numbers[-1] < checkpoint:
            numbers.append(checkpoint)
            times.append(time.monotonic())

    def since(self, shard: int, seq_no: int) -> float | None:
        """Returns the seconds since a change was seen; None if it never was."""
        numbers, times = self._seen.get(shard, (deque[int](), deque[float]()))
        position = bisect.bisect_left(numbers, seq_no)
        return time.monotonic() - times[position] if position < len(times) else None
