"""Damages each kind of file of an index in Milvus Lite in each way, and says what then happens.

    python -m benchmarks.lite_damage > benchmarks/results/2026-12-01-lite-damage.md

Each copy is opened, searched, counted, scanned and written to. "complete": the same documents, counts and scores as of
the undamaged index, and a write after it. "refused by name": an error that names the file, before anything was changed.
SILENT (fewer results) and LOST (a file) must not be.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from benchmarks.fixtures import save_checkpoint
from m3plugins import M3Encoder
from tests.milvus import damaging


def main() -> int:
    """Prints the table; 1 if something was silently lost."""
    os.umask(0)  # permissions are tried as another user where this one is root
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        root = Path(folder)
        encoder = M3Encoder.from_pretrained(save_checkpoint(root / "model"))
        base = damaging.build(encoder, root)
        whole = damaging.answers(encoder, damaging.copy(base, root / "trial.db"))
        started, counts = time.perf_counter(), Counter[str]()
        print("# Damaged files of Milvus Lite\n")
        lite = version("milvus-lite")
        print(f"`python -m benchmarks.lite_damage`, milvus-lite {lite}; {whole.count} documents, of which")
        print("a part is in files and a part in the logs of a process that was killed.\n")
        print("| file |", " | ".join(damaging.HARMS), "|\n|---|", "---|" * len(damaging.HARMS), sep="")
        for kind in damaging.KINDS:
            row = []
            for way in damaging.HARMS:
                row.append(damaging.outcome(encoder, damaging.copy(base, root / "trial.db"), kind, way, whole))
            counts.update(cell.partition(":")[0] for cell in row)
            print(f"| {kind} |", " | ".join(row), "|", flush=True)
        told = ", ".join(f"{cell} {count}" for cell, count in counts.most_common())
        print(f"\n{told}; {time.perf_counter() - started:.0f} s.")
    return int(any(counts[bad] for bad in ("SILENT", "LOST", "error", "refused")))


if __name__ == "__main__":
    sys.exit(main())
