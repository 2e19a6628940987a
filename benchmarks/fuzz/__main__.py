"""Fuzzing of what strangers write: checkpoint folders, corpus files, rows in a database.

    python -m benchmarks.fuzz                                   # all three targets, 20 minutes in all
    python -m benchmarks.fuzz rows --seconds 60 --seed 7
    python -m benchmarks.fuzz --output benchmarks/results/2026-12-01-fuzz.md
    python -m benchmarks.fuzz checkpoints --case '[["config.json", "set", ["num_hidden_layers"], 0]]'

A case is a list of edits. Hypothesis makes and shrinks them; failing ones are kept in `.fuzz/` and tried first the next
time. Rows of Elasticsearch need M3_TEST_ES_ZIP or M3_TEST_ES_URL. Exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # what a fork needs: no threads that it would lose
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks.fuzz.edits import from_json
from benchmarks.fuzz.failures import ROOT, Failure
from benchmarks.fuzz.report import markdown
from benchmarks.fuzz.search import Target, search

IN_MEMORY = Path("/dev/shm")
"""A folder whose files need no disk: a flush of Milvus Lite waits for it."""
TARGETS = ("checkpoints", "corpora", "rows")


@contextmanager
def opened(name: str) -> Iterator[Target]:
    """A target, in a folder of its own, in memory where that can be. Each imports what no other needs."""
    with tempfile.TemporaryDirectory(prefix="m3-fuzz-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        if name == "checkpoints":
            from benchmarks.fuzz.checkpoints import Checkpoints

            yield Checkpoints(Path(folder))
        elif name == "corpora":
            from benchmarks.fuzz.corpora import Corpora

            yield Corpora(Path(folder))
        else:
            from benchmarks.fuzz.rows import rows

            with rows(Path(folder)) as target:
                yield target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="default: all")
    parser.add_argument("--seconds", type=float, default=1200, help="in all, shared evenly by the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="one case, as a reproducer has it, instead of a search")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    names = arguments.targets or TARGETS
    tallies = []
    for name in names:
        with opened(name) as target:
            if arguments.case:
                return _try(target, arguments.case)
            seconds = arguments.seconds / len(names)
            tallies.append(search(target, seconds=seconds, seed=arguments.seed, database=ROOT / ".fuzz"))
    report = markdown(tallies)
    print(json.dumps([asdict(tally) for tally in tallies]) if arguments.json else report)
    if arguments.output:
        arguments.output.write_text(report, encoding="utf-8")
    return int(any(tally.findings for tally in tallies))


def _try(target: Target, case: str) -> int:
    try:
        print(target.check(from_json(case)) or "no failure")
    except Failure as failure:
        print(f"{failure.kind}\n{failure.detail}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
