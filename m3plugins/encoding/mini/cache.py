"""The folder that m3-mini is assembled in: private to the user, and each of its files recorded by digest."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from m3plugins.encoding.checking import digest, read_json

RECORD = "files.json"

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private(cache: Path) -> Path:
    """The folder itself, made if need be for the user alone.

    Raises:
        PermissionError: If it is another user's, or others may write there: what it holds could be anybody's.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = cache.stat()
    if os.name == "posix" and status.st_uid not in (os.getuid(), 0):
        msg = f"{cache} must be a folder of your own, it is that of user {status.st_uid}; set XDG_CACHE_HOME to one"
        raise PermissionError(msg)
    if os.name == "posix" and status.st_mode & _OTHERS_MAY_WRITE:
        msg = f"{cache} must be writable by you alone, others may write there; empty it, then chmod 700 {cache}"
        raise PermissionError(msg)
    return cache


def record(folder: Path) -> None:
    """Records the digests of a folder's files, and by which stamps a change shows without reading them."""
    files = {name: {"sha256": digest(folder / name), "stamp": _stamp(folder / name)} for name in _files(folder)}
    (folder / RECORD).write_text(json.dumps(files, indent=2), encoding="utf-8")


def find_damage(folder: Path, *, weights: str, thorough: bool = False) -> str:
    """What is wrong with a recorded folder; "" if nothing is.

    Args:
        folder: As `record` left it, or as somebody did.
        weights: The sha256 that `model.safetensors` must have.
        thorough: Read every file, in place of those alone whose size, time or inode changed.
    """
    if not folder.is_dir() or folder.is_symlink():
        return "it is no folder"
    if os.name == "posix" and folder.stat().st_uid not in (os.getuid(), 0):
        return f"it is that of user {folder.stat().st_uid}"
    try:
        files: dict[str, Any] = read_json(folder / RECORD, dict)
        wanted = {name: (str(kept["sha256"]), list(kept["stamp"])) for name, kept in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no {RECORD}, which lists its files"
    if odd := sorted({*_files(folder)} ^ {*wanted}):
        return f"{odd[0]} is {'missing' if odd[0] in wanted else 'no file of its'}"
    if wanted.get("model.safetensors", ("",))[0] != weights:
        return "model.safetensors is another model's"
    changed = [name for name, (_, stamp) in wanted.items() if thorough or _stamp(folder / name) != stamp]
    for name in changed:
        if digest(folder / name) != wanted[name][0]:
            return f"{name} is not what was assembled"
    if changed and not thorough:
        with suppress(OSError):  # copied, say; else it is read again the next time
            record(folder)
    return ""


def _files(folder: Path) -> list[str]:
    """All that is in a folder and is no folder, less the record; a link is told by its name, which none has."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [
        path.relative_to(folder).as_posix() if stat.S_ISREG(path.lstat().st_mode) else f"the link or pipe {path.name}"
        for path in found
        if path != folder / RECORD
    ]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
