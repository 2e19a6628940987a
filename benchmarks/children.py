"""Measurements in processes of their own, so that one does not warm, or weigh on, the next."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

_MARK = "RESULT "


def peak_mib() -> float:
    """Peak resident size of this process, without its parent's at the fork, which ru_maxrss would count."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def report(**figures: float) -> None:
    """Reports what a child process found to its parent."""
    print(_MARK + json.dumps(figures))


def need_reference() -> None:
    """Exits where FlagEmbedding is missing, and says where it is."""
    if importlib.util.find_spec("FlagEmbedding") is None:
        command = f".parity/bin/python -m benchmarks.{Path(sys.argv[0]).stem}"
        sys.exit(f"FlagEmbedding is not installed here; `make parity` installs it: {command}")


def run(module: str, *arguments: object) -> dict[str, float]:
    """Runs the module with these arguments and returns what it reports."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith(_MARK))
    figures: dict[str, float] = json.loads(line.removeprefix(_MARK))
    return figures
