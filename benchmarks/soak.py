"""Durability: kills (`kill -9`) operations on Milvus Lite at many points, and checks what is left.

    python -m benchmarks.soak [--minutes 20] [--repetitions 60] [--operations index update ...] [--seed 0]

Half the kills of an operation are at its points (before and after each call of the engine and each change of its
files, in turn), half at random moments; every fourth of these kills it three times before anybody looks. Then the
index is opened and compared with what was acknowledged, the operation repeated, and orphaned blocks swept. A table
goes to the terminal and to benchmarks/results/.

    python -m benchmarks.soak --repeat "update" --seed 17 [--point "after Insert 2"] [--kills 3]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.fixtures import save_checkpoint
from tests.milvus.crash.operations import OPERATIONS
from tests.milvus.crash.trials import Course, Laboratory, Outcome, Trial

RESULTS = Path(__file__).parent / "results"
HEADER = (
    *("operation", "points killed", "repetitions", "killed", "lost", "duplicated", "mismatched"),
    *("orphans swept", "does not open or repeat", "re-run completed"),
)


@dataclass
class Tally:
    """The outcomes of one operation, which passes by `points`."""

    course: Course
    outcomes: list[Outcome] = field(default_factory=list)

    def row(self, operation: str) -> list[str]:
        """Returns the row of the table."""
        hit = {outcome.trial.point for outcome in self.outcomes if outcome.trial.point and outcome.killed}
        findings = [outcome.findings for outcome in self.outcomes]
        return [
            operation,
            f"{len(hit)} of {len(self.course.points)}",
            str(len(self.outcomes)),
            str(sum(outcome.killed for outcome in self.outcomes)),
            str(sum(len(some.lost) for some in findings)),
            str(sum(len(some.duplicated) for some in findings)),
            str(sum(len(some.mismatched) for some in findings)),
            str(sum(outcome.swept for outcome in self.outcomes)),
            str(sum(bool(outcome.error) for outcome in self.outcomes)),
            f"{sum(outcome.completed for outcome in self.outcomes)} of {len(self.outcomes)}",
        ]


def trials(operation: str, course: Course, seed: int, repetitions: int) -> Iterator[Trial]:
    """Points in turn, spread over all of them if there are more than repetitions, and random moments between."""
    stride = max(1, len(course.points) // max(1, repetitions // 2))
    points = course.points[seed % stride :: stride]
    for number in range(repetitions):
        if number % 2 == 0 and number // 2 < len(points):
            yield Trial(operation, seed + number, points[number // 2])
        else:
            yield Trial(operation, seed + number, kills=3 if number % 8 == 7 else 1)


def soak(
    laboratory: Laboratory, operations: list[str], seed: int, repetitions: int, minutes: float
) -> dict[str, Tally]:
    """A trial of each operation in turn, until there were enough, or the time is over."""
    end = time.monotonic() + 60 * minutes
    tallies = {}
    for operation in operations:
        laboratory.course(operation)  # the first one also warms up
        tallies[operation] = Tally(laboratory.course(operation))
    left = {name: trials(name, tally.course, seed, repetitions) for name, tally in tallies.items()}
    while left and time.monotonic() < end:
        for operation in list(left):
            trial = next(left[operation], None)
            if trial is None:
                del left[operation]
                continue
            outcome = laboratory.run(trial, tallies[operation].course)
            tallies[operation].outcomes.append(outcome)
            if not outcome.fine:
                print(f"FAILED {outcome}", flush=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    rows = [list(HEADER), ["---", *["---:"] * (len(HEADER) - 1)]]
    rows += [tally.row(operation) for operation, tally in tallies.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--repetitions", type=int, default=60, help="of each operation")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", choices=OPERATIONS, help="one trial of this operation")
    parser.add_argument("--point", help="with --repeat: where it dies")
    parser.add_argument("--kills", type=int, default=1, help="with --repeat: how often")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder), save_checkpoint(Path(folder) / "model"))
        if arguments.repeat:
            trial = Trial(arguments.repeat, arguments.seed, arguments.point, arguments.kills)
            outcome = laboratory.run(trial, laboratory.course(arguments.repeat))
            print(outcome)
            return not outcome.fine
        print(f"seed {arguments.seed}", flush=True)
        tallies = soak(laboratory, arguments.operations, arguments.seed, arguments.repetitions, arguments.minutes)
    result = table(tallies)
    print(result)
    RESULTS.mkdir(exist_ok=True)
    about = f"Python {platform.python_version()}, milvus-lite {version('milvus-lite')}, pymilvus {version('pymilvus')}"
    title = f"# Durability, {date.today()}\n\nseed {arguments.seed}, {about}\n\n"
    (RESULTS / f"{date.today()}-soak.md").write_text(title + result, encoding="utf-8")
    return not all(outcome.fine for tally in tallies.values() for outcome in tally.outcomes)


if __name__ == "__main__":
    sys.exit(main())
