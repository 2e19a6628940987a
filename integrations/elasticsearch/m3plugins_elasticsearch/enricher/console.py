"""Progress and reports of `m3 enrich` on the console."""

from __future__ import annotations

import time
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typing_extensions import Self

from m3plugins.cli.printing import message, print_json, say
from m3plugins_elasticsearch.enricher.metrics import Counts, EnrichReport, Metrics, VerifyReport

_EVERY_S = 5.0


class Progress:
    """A progress bar of the changes that are to be settled, if stderr is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar = Bar(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)
        self._total = 0

    def __call__(self, metrics: Metrics) -> None:
        """Updates the bar."""
        self._total = max(self._total, metrics.behind)
        description = message(metrics.error or _counts(metrics))
        self._bar.update(self._task, total=self._total, completed=self._total - metrics.behind, description=description)

    def __enter__(self) -> Self:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Stops the bar."""
        self._bar.stop()


class Lines:
    """Prints a line of metrics every few seconds."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._due = 0.0
        self._error = ""

    def __call__(self, metrics: Metrics) -> None:
        """Prints the metrics, if it is time or something went wrong."""
        if time.monotonic() > self._due or metrics.error != self._error:
            self.show(metrics)

    def show(self, metrics: Metrics) -> None:
        """Prints the metrics."""
        self._due = time.monotonic() + _EVERY_S
        self._error = metrics.error
        if self._as_json:
            print_json(asdict(metrics))
        else:
            say(_line(metrics))


def summary(report: EnrichReport) -> str:
    """Says a report in one line."""
    rate = report.enriched / max(report.seconds, 1e-3)
    return f"{_counts(report)} in {report.seconds:.1f} s ({rate:.0f} documents encoded a second)"


def verdict(report: VerifyReport) -> str:
    """Says the findings of a comparison in one line."""
    parts = (("stale", report.stale), ("missing", report.missing), ("orphaned", report.orphaned), ("dead", report.dead))
    bad = "".join(f", {count} {name}" for name, count in parts if count)
    return f"{report.enriched} of {report.documents} documents are enriched{bad}"


def _line(metrics: Metrics) -> str:
    lag = "" if metrics.lag_s is None else f", lag {metrics.lag_s:.1f} s (p99 {metrics.lag_p99_s:.1f} s)"
    error = f"; waiting: {metrics.error}" if metrics.error else ""
    return f"{metrics.index}: {metrics.behind} behind{lag}; {_counts(metrics)}{error}"


def _counts(counts: Counts) -> str:
    named = {name: getattr(counts, name) for name in Counts.__dataclass_fields__}
    return ", ".join(f"{count} {name}" for name, count in named.items() if count or name == "enriched")
