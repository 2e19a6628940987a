"""Which versions of the hosts our integrations work with: the tests of each, in an environment of its own.

    python benchmarks/compat.py                                  # all of MATRIX
    python benchmarks/compat.py pymilvus==3.0.2                  # one version, in MATRIX or not
    python benchmarks/compat.py pymilvus -- -k filters           # all versions of one host, some of its tests

Makes virtual environments under `.compat/` and keeps them for the next run, prints a markdown table and, of all of
MATRIX, writes it to `benchmarks/results/`. Needs Python, pip and, for tests of Elasticsearch, a node (CONTRIBUTING.md
says how they find one); fails if a test does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".compat"
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = (
    "pymilvus",
    "milvus-lite",
    "elasticsearch",
    "langchain-core",
    "langchain-tests",
    "langchain-milvus",
    "langchain-elasticsearch",
    "llama-index-core",
    "llama-index-vector-stores-milvus",
)


@dataclass(frozen=True)
class Entry:
    """One environment.

    Attributes:
        requirements: What pip is asked for; the first one names the entry.
        projects: Our projects in it, besides the core.
        paths: The tests to run.
    """

    requirements: tuple[str, ...]
    projects: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in the table and on the command line."""
        return self.requirements[0]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return ENVIRONMENTS / re.sub(r"[^\w.]+", "-", self.name) / "bin" / "python"


def milvus(version: str) -> Entry:
    return Entry((f"pymilvus=={version}",), ("integrations/milvus",), ("tests/milvus",))


def elasticsearch(version: str) -> Entry:
    projects = ("integrations/milvus", "integrations/elasticsearch")  # its tests copy from and to Milvus Lite
    return Entry((f"elasticsearch=={version}", "aiohttp"), projects, ("tests/elasticsearch",))


def langchain(version: str, *others: str) -> Entry:
    projects = ("integrations/milvus", "integrations/elasticsearch", "integrations/langchain")
    return Entry((f"langchain-core=={version}", *others), projects, ("tests/langchain",))


def llama_index(version: str, *others: str) -> Entry:
    projects = ("integrations/milvus", "integrations/elasticsearch", "integrations/llamaindex")
    return Entry((f"llama-index-core=={version}", *others), projects, ("tests/llamaindex",))


STOCK_STORES = ("langchain-milvus==0.4.0", "langchain-elasticsearch==1.0.0", "pymilvus==3.0.2")
LLAMA_STORES = ("llama-index-vector-stores-milvus==1.2.0", "llama-index-vector-stores-elasticsearch==0.7.0")
AROUND = ("langchain-classic", "langgraph", "aiohttp")
MATRIX = [
    milvus("2.6.10"),
    milvus("2.6.17"),
    milvus("3.0.2"),
    elasticsearch("8.19.0"),
    elasticsearch("8.19.3"),
    langchain("1.3.0", "langchain-tests==1.1.6"),  # the stock stores of today need 1.4.9
    langchain("1.7.2", "langchain-tests==1.1.9", *STOCK_STORES, *AROUND),
    llama_index("0.14.0"),
    llama_index("0.14.25", *LLAMA_STORES, "pymilvus==2.6.17"),
]


@dataclass(frozen=True)
class Result:
    """What came of an entry; `versions` by distribution, `failed` by name."""

    entry: Entry
    versions: dict[str, str]
    passed: int
    skipped: int
    failed: list[str]
    seconds: float


def chosen(names: Sequence[str]) -> list[Entry]:
    """The entries of these requirements, or of all the versions of these hosts."""
    entries = []
    for name in names:
        of_host = [entry for entry in MATRIX if re.split("[=<>]", entry.name)[0] == re.split("[=<>]", name)[0]]
        if not of_host:
            sys.exit(f"compat: unknown host {name!r}; in the matrix are {', '.join(entry.name for entry in MATRIX)}")
        other_version = replace(of_host[0], requirements=(name, *of_host[0].requirements[1:]))
        exact = [entry for entry in of_host if entry.name == name]
        entries += exact or ([other_version] if re.search("[=<>]", name) else of_host)
    return entries


def install(entry: Entry) -> None:
    if not entry.python.exists():
        subprocess.run([sys.executable, "-m", "venv", entry.python.parent.parent], check=True)
    pip = [entry.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    editable = [argument for project in (".[test]", *entry.projects) for argument in ("-e", project)]
    subprocess.run([*pip, *editable, *entry.requirements], cwd=ROOT, env=environment(), check=True)


def run(entry: Entry, arguments: Sequence[str]) -> Result:
    install(entry)
    report = entry.python.parent.parent / "report.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    pytest = [entry.python, "-m", "pytest", "-q", f"--junitxml={report}", *entry.paths, *arguments]
    status = subprocess.run(pytest, cwd=ROOT, env=environment(), check=False).returncode
    seconds = time.monotonic() - started
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if has(case, "failure", "error")]
    skipped = sum(has(case, "skipped") for case in cases)
    if status and not failed:
        failed = [f"pytest exited with {status}"]
    return Result(entry, versions(entry), len(cases) - skipped - len(failed), skipped, failed, seconds)


def has(case: ElementTree.Element, *outcomes: str) -> bool:
    return any(case.find(outcome) is not None for outcome in outcomes)


def versions(entry: Entry) -> dict[str, str]:
    listed = subprocess.run(
        [entry.python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        env=environment(),
        check=True,
    )
    return {found["name"]: found["version"] for found in json.loads(listed.stdout)}


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def table(results: Sequence[Result], arguments: Sequence[str]) -> str:
    shown = [name for name in SHOWN if any(name in result.versions for result in results)]
    columns = ["environment", "Python", *shown, "passed", "failed", "skipped", "seconds"]
    lines = [f"# Compatibility, {date.today()}", ""]
    if arguments:
        lines += [f"Some of the tests only: `pytest {shlex.join(arguments)}`.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for result in results:
        counts = [str(result.passed), str(len(result.failed)), str(result.skipped), f"{result.seconds:.0f}"]
        found = [result.versions.get(name, "") for name in shown]
        lines.append(f"| {' | '.join([result.entry.name, platform.python_version(), *found, *counts])} |")
    lines += ["", "Expected failures (`xfail`) count as skipped."]
    for result in results:
        lines += [f"- {result.entry.name}: {name}" for name in result.failed]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help="pymilvus==3.0.2, or pymilvus for all its versions; default: MATRIX")
    parser.add_argument("--output", type=Path, help="default: for all of MATRIX, benchmarks/results/DATE-compat.md")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, arguments = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    results = [run(entry, arguments) for entry in (chosen(options.names) if options.names else MATRIX)]
    report = table(results, arguments)
    print(report)
    if output := options.output or (None if options.names or arguments else RESULTS / f"{date.today()}-compat.md"):
        output.write_text(report)
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
