"""The search for failures: Hypothesis makes cases and shrinks what fails, one class of failure a round."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, errors, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from benchmarks.fuzz.edits import Case, to_json
from benchmarks.fuzz.failures import Failure, failure, site

EXAMPLES_A_ROUND = 2_000


class Target(Protocol):
    """The target of fuzzing.

    Attributes:
        name: Name of the target.
        cases: Everything that may be done to it.
    """

    name: str
    cases: st.SearchStrategy[Case]

    def check(self, case: Case) -> str | None:
        """Tries a case; returns a remark that is worth counting, if there is one.

        Raises:
            Failure: If a promise was not kept.
        """


@contextmanager
def _all_failures() -> Iterator[None]:
    """An error that a check did not expect is a failure as any: it must not end the search."""
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        raise failure(f"an unexpected {type(error).__name__} in {site(error)}", error) from error


@dataclass
class Finding:
    """A class of failure.

    Attributes:
        kind: The fault.
        detail: The values that were seen in the smallest case.
        case: The smallest case, as JSON.
        seen: Number of times that it happened.
    """

    kind: str
    detail: str
    case: str
    seen: int = 1


@dataclass
class Tally:
    """The results of a search.

    Attributes:
        target: Name of the target.
        seed: Seed of the first round; the next ones have the numbers that follow.
        rounds: Number of rounds.
        executions: Cases tried, those of shrinking among them.
        seconds: Time taken.
        findings: The findings, by kind.
        remarks: Number of times that each remark was made.
    """

    target: str
    seed: int
    rounds: int = 0
    executions: int = 0
    seconds: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)

    def count(self, target: Target, case: Case, known: Container[str]) -> None:
        """Tries a case, and raises its failure unless that is known."""
        self.executions += 1
        try:
            with _all_failures():
                if remark := target.check(case):
                    self.remarks[remark] = self.remarks.get(remark, 0) + 1
        except Failure as found:
            self.add(found, case)
            if found.kind not in known:
                raise

    def add(self, found: Failure, case: Case) -> None:
        """Counts a failure, and keeps its smallest case."""
        written = to_json(case)
        finding = self.findings.setdefault(found.kind, Finding(found.kind, found.detail, written, 0))
        finding.seen += 1
        if (len(written), written) < (len(finding.case), finding.case):
            finding.case, finding.detail = written, found.detail

    def tell(self, kind: str) -> None:
        """Writes a finding to stderr."""
        found = self.findings[kind]
        print(f"{kind}: {found.detail[:300]}\n    {self.reproducer(found)}", file=sys.stderr, flush=True)

    def reproducer(self, finding: Finding) -> str:
        """The command that shows a finding again."""
        return f"python -m benchmarks.fuzz {self.target} --case {shlex.quote(finding.case)}"


class _OutOfTime(BaseException):
    """The end of a search. No `Exception`, which Hypothesis would take for a failure."""


def search(
    target: Target, *, seconds: float, seed: int, database: Path | None = None, executions: float = math.inf
) -> Tally:
    """Looks for failures until the time is over.

    A round ends with one class of failure, shrunk; what is known by then is counted only, so that the next round
    finds another, and goes to stderr. Each round has a database of its own: what one shrank, the next one only counts.

    Args:
        target: The target.
        seconds: Time to search for.
        seed: Seed of the first round.
        database: Folder of the failing examples of earlier runs, which are tried first; None keeps none.
        executions: Most cases to try.
    """
    tally, known, started = Tally(target.name, seed), set[str](), time.monotonic()

    def attempt(case: Case) -> None:
        tally.seconds = time.monotonic() - started
        if tally.seconds >= seconds or tally.executions >= executions:
            raise _OutOfTime
        tally.count(target, case, known)

    while True:
        kept = None if database is None else DirectoryBasedExampleDatabase(database / f"{target.name}-{tally.rounds}")
        options = settings(
            max_examples=EXAMPLES_A_ROUND,
            database=kept,
            phases=[Phase.reuse, Phase.generate, Phase.shrink],
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        tally.rounds += 1
        try:
            hypothesis.seed(seed + tally.rounds - 1)(options(given(target.cases)(attempt)))()
        except Failure as found:
            known.add(found.kind)
            tally.tell(found.kind)
        except errors.Flaky:  # it failed once: it is in the tally, and is not looked at again
            known |= set(tally.findings)
        except _OutOfTime:
            return tally
