"""What a killed process, or a full disk, leaves in Milvus Lite's folder that Lite 3.2.2 itself cannot read.

Only the versions whose source says so are repaired; `benchmarks/soak.py` finds out what another one needs.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

_UNDERSTOOD = {"3.2.2"}


def drop_written_logs(uri: str) -> None:
    """Removes logs whose rows are in files: a flush commits the files first, and Lite would read both.

    Lite numbers logs, and its manifest says which is the first whose rows are in no file. Nothing is done to a
    folder that a process has open.
    """
    if sys.platform == "win32" or not _understood() or not Path(uri, "LOCK").is_file():
        return
    import fcntl

    with Path(uri, "LOCK").open("r+b") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for manifest in Path(uri).glob("collections/*/manifest.json"):
            with suppress(ValueError):  # then Lite takes the one before
                first = json.loads(manifest.read_bytes())["active_wal_number"] or 0
                for log in manifest.parent.glob("wal/wal_*.arrow"):
                    if int(log.stem.rpartition("_")[2]) < first:
                        log.unlink()


def forget_indexes(uri: str, name: str) -> None:
    """Removes a collection's search indexes: Lite writes them in place, loads what is there, and makes missing ones."""
    if _understood():
        for file in Path(uri).glob(f"collections/{name}/partitions/*/indexes/*"):
            file.unlink(missing_ok=True)


def remove_unfinished(uri: str, name: str) -> None:
    """Removes a collection's folder that has no schema: Lite sees no collection, and cannot make one there."""
    folder = Path(uri, "collections", name)
    if _understood() and folder.is_dir() and not (folder / "schema.json").exists():
        shutil.rmtree(folder)


def _understood() -> bool:
    return version("milvus-lite") in _UNDERSTOOD
