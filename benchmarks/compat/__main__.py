"""Our tests on the versions that we claim, in an environment of its own for each row.

    python -m benchmarks.compat                              # all rows but those by name only; goes on where it stopped
    python -m benchmarks.compat pymilvus==3.0.2 oldest       # these rows, anew
    python -m benchmarks.compat pymilvus                     # all rows of one host
    python -m benchmarks.compat pymilvus==2.6.12             # a version outside the matrix
    python -m benchmarks.compat transformers -- -k resume    # some of the tests; no result is kept
    python -m benchmarks.compat --list

A result is kept in `.compat/`, with the commit that gave it; a run without names runs the rows that have none of this
commit, then writes all of them to `benchmarks/results/`. Where files differ from the commit, which then says too little
of what was tested, every row is run, and nothing is kept or written. Rows "torch too" fetch another torch, gigabytes,
and are run by name only. Rows of Elasticsearch need M3_TEST_ES_ZIP (8.19) and M3_TEST_ES9_ZIP (9). Fails if a test
does, or a row cannot be run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.compat import environments
from benchmarks.compat.environments import folder, python, variables, versions
from benchmarks.compat.rows import ROOT, Row, matrix, named

SHOWN = (
    "Python", "torch", "transformers", "numpy", "pymilvus", "milvus-lite", "elasticsearch", "langchain-core",
    "langchain-tests", "langchain-milvus", "langchain-elasticsearch", "llama-index-core",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The result of a row; `versions` by distribution, `failed` by name, `error` where its tests could not be run."""

    commit: str
    versions: dict[str, str]
    passed: int
    skipped: int
    failed: list[str]
    seconds: float
    error: str = ""


def run(row: Row, commit: str, arguments: Sequence[str]) -> Result:
    """Makes the environment of a row and runs its tests."""
    if row.server and not os.environ.get(row.server):
        return Result(commit, {}, 0, 0, [], 0, f"not run: {row.server} names no archive of Elasticsearch")
    try:
        environments.prepare(row)
    except subprocess.CalledProcessError as error:
        return Result(commit, {}, 0, 0, [], 0, f"cannot be installed: {shlex.join(map(str, error.cmd))}")
    report = folder(row) / "report.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    pytest = [python(row), "-m", "pytest", "-q", f"--junitxml={report}", *row.paths, *arguments]
    status = subprocess.run(pytest, cwd=ROOT, env=variables(row), check=False).returncode
    seconds = time.monotonic() - started
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if has(case, "failure", "error")]
    skipped = sum(has(case, "skipped") for case in cases)
    error = f"pytest exited with {status}" if status and not failed else ""
    return Result(commit, versions(row), len(cases) - skipped - len(failed), skipped, failed, seconds, error)


def has(case: ElementTree.Element, *outcomes: str) -> bool:
    return any(case.find(outcome) is not None for outcome in outcomes)


def kept(row: Row) -> Result | None:
    """The result of an earlier run."""
    file = folder(row) / "result.json"
    return Result(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def keep(row: Row, result: Result) -> None:
    (folder(row) / "result.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")


DIRTY = "-dirty"


def head() -> str:
    """The commit of this checkout, with a mark where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", f"--dirty={DIRTY}", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return described.stdout.strip()


def table(results: dict[str, Result], arguments: Sequence[str] = ()) -> str:
    """All results as a Markdown table, and below it what went wrong."""
    columns = ["row", "commit", *SHOWN, "passed", "failed", "skipped", "seconds"]
    lines = [f"# Compatibility, {date.today()}", ""]
    if arguments:
        lines += [f"Some of the tests only: `pytest {shlex.join(arguments)}`.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, result in results.items():
        counts = [str(result.passed), str(len(result.failed)), str(result.skipped), f"{result.seconds:.0f}"]
        found = [result.versions.get(shown, "") for shown in SHOWN]
        lines.append(f"| {' | '.join([name, result.commit, *found, *counts])} |")
    lines += ["", "Expected failures (`xfail`) count as skipped."]
    for name, result in results.items():
        lines += [f"- {name}: {problem}" for problem in (*result.failed, result.error) if problem]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs what is asked for and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help="rows, or hosts for all their rows; default: the matrix")
    parser.add_argument("--list", action="store_true", help="name the rows, with what is known of them")
    parser.add_argument("--output", type=Path, help="default, without names: benchmarks/results/DATE-compat.md")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, arguments = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    commit = head()
    if options.list:
        for row in matrix():
            known = kept(row)
            print(
                row.name,
                f"{known.passed} passed, {len(known.failed)} failed at {known.commit}" if known else "",
                sep="\t",
            )
        return 0
    if dirty := commit.endswith(DIRTY):
        print(
            "compat: files differ from the commit: nothing is kept, no report goes to benchmarks/results",
            file=sys.stderr,
        )
    rows = named(options.names) if options.names else [row for row in matrix() if not row.by_name_only]
    results: dict[str, Result] = {}
    for row in rows:
        known = None if options.names or arguments or dirty else kept(row)
        if known is None or known.commit != commit or known.error:
            known = run(row, commit, arguments)
            if not arguments and not dirty and not known.error:
                keep(row, known)
        results[row.name] = known
        print(table({row.name: known}, arguments), flush=True)
    if not options.names and not arguments:  # what was run by name belongs to the whole, too
        results |= {row.name: known for row in matrix() if row.by_name_only and (known := kept(row))}
    report = table(results, arguments)
    print(report)
    whole = (
        None if options.names or arguments or dirty else ROOT / "benchmarks" / "results" / f"{date.today()}-compat.md"
    )
    if output := options.output or whole:
        output.write_text(report, encoding="utf-8")
    return int(any(result.failed or result.error for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
