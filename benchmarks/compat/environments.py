"""The virtual environment of a row, below `.compat/`: resolved by uv, installed by pip, kept for the next run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.compat.rows import LOCK, ROOT, Row

BUILDING = [
    line
    for line in LOCK.read_text(encoding="utf-8").splitlines()
    if line.split("==")[0] in ("pip", "editables", "hatchling", "setuptools")
]


def folder(row: Row) -> Path:
    """Returns the folder of all that belongs to a row."""
    return ROOT / ".compat" / re.sub(r"[^\w.]+", "-", row.name).strip("-")


def python(row: Row) -> Path:
    """The interpreter of its environment."""
    return folder(row) / "venv" / "bin" / "python"


def variables(row: Row) -> dict[str, str]:
    """The environment variables of its tests: the node that it names and no other, and not the caller's imports."""
    others = {"PYTHONPATH", "M3_TEST_ES_URL", "M3_TEST_ES_ZIP"}
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return kept | ({"M3_TEST_ES_ZIP": os.environ[row.server], "CI": "true"} if row.server else {})


def prepare(row: Row) -> None:
    """Makes the environment, or brings it up to date.

    The versions that a row leaves open are the lock's, which uv keeps where it finds them in its output file, so that
    a row changes only with what it names; the rows of an end start without them.
    """
    folder(row).mkdir(parents=True, exist_ok=True)
    pins, wanted = folder(row) / "constraints.txt", folder(row) / "requirements.in"
    pins.write_text(LOCK.read_text(encoding="utf-8") if row.prefer == "locked" else "", encoding="utf-8")
    projects = [f"-e {ROOT / project}" for project in row.projects]
    wanted.write_text("\n".join([*projects, *row.requirements, *BUILDING]) + "\n", encoding="utf-8")
    if not python(row).exists():
        run(row.python, "-m", "venv", folder(row) / "venv")
    resolution = "highest" if row.prefer == "locked" else row.prefer
    compile_ = (sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header")
    run(*compile_, "--python", python(row), "--resolution", resolution, "--output-file", pins, wanted)
    lines = pins.read_text(encoding="utf-8").splitlines()
    pins.write_text("\n".join(line for line in lines if not line.startswith("-e ")) + "\n", encoding="utf-8")
    pip = (python(row), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", pins)
    run(*pip, *BUILDING)
    run(*pip, "--no-build-isolation", "-r", wanted)


def versions(row: Row) -> dict[str, str]:
    """Returns the versions that are installed for a row, by distribution, and its Python's."""
    program = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps({'Python': platform.python_version()} | {d.name: d.version for d in m.distributions()}))"
    )
    printed = subprocess.run([python(row), "-I", "-c", program], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = json.loads(printed)
    return found


def run(*command: object) -> None:
    """Runs a command in the root of the repository, without the caller's imports."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], cwd=ROOT, env=kept, check=True)
