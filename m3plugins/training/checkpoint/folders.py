"""Checkpoints that are whole or are not used: a manifest, written last, names every file with its size and hash."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from m3plugins.encoding.checking import digest

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_BUILDING = ".saving-"
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint cannot be resumed from; the message says which file is wrong and what to do."""


def seal(folder: Path) -> None:
    """Writes the manifest of a checkpoint whose files are all there; they are on the disk when it is."""
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


def newest(output: Path) -> Path | None:
    """The newest checkpoint of a run that was saved to its end; None if there is none."""
    return next(reversed(_whole(output)), None)


def last_checkpoint(output: Path) -> Path | None:
    """As `newest`, and unchanged since.

    Raises:
        CheckpointError: It was damaged afterwards.
    """
    found = newest(output)
    if found is not None:
        verify(found)
    return found


def discard(folder: Path) -> None:
    """Removes a checkpoint, its manifest first: what a kill leaves of it is no whole one."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def prune(output: Path, limit: int, *, best: str | None) -> None:
    """Removes the oldest checkpoints until `limit` are left; the newest and the best stay."""
    folders = _whole(output)
    kept = {folders[-1], Path(best) if best else folders[-1]}
    removable = [folder for folder in folders if folder not in kept]
    for folder in removable[: max(0, len(folders) - max(limit, len(kept)))]:
        (folder / MANIFEST).unlink()  # first, as above
        shutil.rmtree(folder)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files go to `folder` when all are written; after an error none does.

    It is inside `folder`, which may be on a disk of its own; what a save that was cut off left there is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for remains in folder.glob(f"{_BUILDING}*"):
        shutil.rmtree(remains, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
    try:
        yield building
        for path in sorted(path for path in building.rglob("*") if path.is_file()):
            target = folder / path.relative_to(building)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Inside the block a checkpoint is saved; after an error nothing is left of it.

    Raises:
        OSError: It could not be saved; the message says what the disk has left.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as err:  # torch and safetensors have their own of a full disk
        discard(folder)
        free, kept = shutil.disk_usage(folder.parent).free, newest(folder.parent)
        msg = (
            f"checkpoint {folder} could not be saved: {err}; the disk has {free:,} bytes free; "
            f"the last whole checkpoint is {kept or 'none'}"
        )
        raise OSError(msg) from err


def check_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warns of settings of a resumed run that are not those it was started with.

    Raises:
        CheckpointError: One of them decides which weights are trained.
    """
    ignored = {"output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "save_total_limit"}
    changed = sorted(name for name in before if name not in ignored and before[name] != now.get(name))
    details = ", ".join(f"{name} {before[name]!r} -> {now.get(name)!r}" for name in changed)
    decisive = {"heads", "train_encoder", "learn_temperature"}
    decisive |= {"lora_rank", "lora_alpha"} if before.get("train_encoder") == "lora" else set()
    if decisive & set(changed):
        msg = f"a run with other weights cannot be resumed: {details}; resume as before, or start from the saved model"
        raise CheckpointError(msg)
    if changed:
        logger.warning("the resumed run has other settings than before: %s", details)


def _files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What a manifest says of each file."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: {"bytes": stated["bytes"], "sha256": stated["sha256"]} for name, stated in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise _damaged(folder, MANIFEST, "is not what was written") from err


def _damaged(folder: Path, name: str, fault: str) -> CheckpointError:
    msg = f"the checkpoint {folder} is damaged: {name} {fault}; remove the folder to resume from an earlier one"
    return CheckpointError(msg)


def _whole(output: Path) -> list[Path]:
    """The checkpoints that were saved to their end, in the order in which they were: a folder may hold two runs'."""
    found = {path: int(match[1]) for path in output.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    sealed = [path for path in found if (path / MANIFEST).is_file()]
    return sorted(sealed, key=lambda path: (_sealed_at(path), found[path]))


def _sealed_at(folder: Path) -> int:
    """When, in nanoseconds, by the manifest itself: copies of its file have other times. It may be damaged."""
    try:
        return int(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["time"])
    except (ValueError, LookupError, TypeError):
        return (folder / MANIFEST).stat().st_mtime_ns
