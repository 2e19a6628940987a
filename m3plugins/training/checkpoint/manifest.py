"""The manifest of a checkpoint: written last, it names every file with its size and hash."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from m3plugins.encoding.checking import digest

MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """Raised for a checkpoint that cannot be resumed from; the message names the wrong file and the fix."""


def seal(folder: Path) -> None:
    """Writes the manifest of a complete checkpoint, after its files have reached the disk."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": digest(path)}
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    writing = folder / f".{MANIFEST}"
    with writing.open("w", encoding="utf-8") as file:
        json.dump({"format": 1, "time": time.time_ns(), "files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    writing.replace(folder / MANIFEST)


def verify(folder: Path) -> None:
    """Refuses a checkpoint that is not complete and unchanged.

    Raises:
        CheckpointError: A file is missing or not what was written.
    """
    if not (folder / MANIFEST).is_file():
        msg = f"{folder} was not saved to its end: it has no {MANIFEST}; resume from an earlier checkpoint"
        raise CheckpointError(msg)
    for name, stated in _files_of(folder).items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, name, "is missing")
        if path.stat().st_size != stated["bytes"] or digest(path) != stated["sha256"]:
            raise _damaged(folder, name, "is not what was written")


def sealed_at(folder: Path) -> int:
    """Returns the time of sealing in nanoseconds, from the manifest: copies of its file have other times."""
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["time"])
    except (ValueError, LookupError, TypeError):
        return (folder / MANIFEST).stat().st_mtime_ns


def _files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the size and the hash that a manifest states for each file."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: {"bytes": stated["bytes"], "sha256": stated["sha256"]} for name, stated in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise _damaged(folder, MANIFEST, "is not what was written") from err


def _damaged(folder: Path, name: str, fault: str) -> CheckpointError:
    msg = f"the checkpoint {folder} is damaged: {name} {fault}; remove the folder to resume from an earlier one"
    return CheckpointError(msg)
