"""Writing of several files, all of them or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUILDING = ".saving-"


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yields a folder to write into; its files move to `folder` when all are written, and none does after an error.

    It is inside `folder`, which may be on a disk of its own. The remains of interrupted saves there are removed.
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
