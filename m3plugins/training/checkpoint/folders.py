"""The folder of a run's checkpoints: finding, removing and writing them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from m3plugins.training.checkpoint import manifest

_NAME = re.compile(r"checkpoint-(\d+)")


def newest(output: Path) -> Path | None:
    """Returns the newest checkpoint of a run that was saved to its end; None if there is none."""
    return next(reversed(_whole(output)), None)


def last_checkpoint(output: Path) -> Path | None:
    """Returns the newest checkpoint of a run, as `newest` does, if it is unchanged since.

    Raises:
        CheckpointError: The newest was damaged afterwards.
    """
    found = newest(output)
    if found is not None:
        manifest.verify(found)
    return found


def discard(folder: Path) -> None:
    """Removes a checkpoint, its manifest first, so that the remains after a kill do not count as one."""
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def prune(output: Path, limit: int, *, best: str | None) -> None:
    """Removes the oldest checkpoints until `limit` are left; the newest and the best stay."""
    folders = _whole(output)
    kept = {folders[-1], Path(best) if best else folders[-1]}
    removable = [folder for folder in folders if folder not in kept]
    for folder in removable[: max(0, len(folders) - max(limit, len(kept)))]:
        (folder / manifest.MANIFEST).unlink()  # first, as above
        shutil.rmtree(folder)


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Removes the checkpoint that the block writes, if it raises an error.

    Raises:
        OSError: The checkpoint could not be saved; the message says what space the disk has left.
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


def _whole(output: Path) -> list[Path]:
    """Returns the checkpoints that were saved to their end, in that order: a folder may hold those of two runs."""
    found = {path: int(match[1]) for path in output.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    sealed = [path for path in found if (path / manifest.MANIFEST).is_file()]
    return sorted(sealed, key=lambda path: (manifest.sealed_at(path), found[path]))
