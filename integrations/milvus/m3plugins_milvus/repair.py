"""What a killed process, or a full disk, leaves in Milvus Lite's folder that Lite 3.2.2 itself cannot read.

Only the versions whose source says so are repaired; `benchmarks/soak.py` finds out what another one needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from m3plugins_milvus.folder import DROPPING, Folder, Manifest, log_number
from m3plugins_milvus.record import Record

_UNDERSTOOD = {"3.2.2"}


def drop_written_logs(folder: Folder) -> None:
    """Removes logs whose rows are in files: a flush commits the files first, and Lite would read both.

    Lite numbers logs, and its manifest says which is the first whose rows are in no file. The folder must be
    undamaged, and not in use.
    """
    if _understood() and folder.manifest.exists():
        first = Manifest.parse(folder.manifest.read_bytes()).log
        for log in folder.logs():
            if log_number(log) < first:
                log.unlink()


def drop_damaged_indexes(folder: Folder, record: Record | None) -> None:
    """Removes search indexes that are not as they were written: Lite makes missing ones from the rows."""
    for name, entry in record.indexes.items() if record and _understood() else ():
        index = folder.path / "partitions" / name
        if index.exists() and (index.stat().st_size != entry.size or entry.fault(index)):
            index.unlink()


def forget_indexes(folder: Folder) -> None:
    """Removes a collection's search indexes: Lite writes them in place, loads what is there, and makes missing ones."""
    if _understood():
        for file in folder.path.glob("partitions/*/indexes/data_*.*.*.idx"):
            file.unlink(missing_ok=True)


def remove_unfinished(folder: Folder) -> None:
    """Removes a folder that has no schema and nothing in it: Lite sees no collection, and cannot make one there."""
    if _understood() and folder.path.is_dir() and not folder.schema.exists() and not folder.holds_data():
        (folder.path / "schema.json.tmp").unlink(missing_ok=True)
        for path in sorted(folder.path.rglob("*"), reverse=True):
            path.rmdir()
        folder.path.rmdir()


@contextmanager
def dropping(*folders: Folder) -> Iterator[None]:
    """Marks folders that are about to be deleted, so that a deletion that is interrupted can be finished.

    Raises:
        ValueError: If there is a file in one that is not Milvus Lite's, which would go with it.
    """
    for folder in folders:
        if strangers := folder.strangers():
            msg = f"{strangers[0]} is not of Milvus Lite and would be deleted too; move it elsewhere first"
            raise ValueError(msg)
    for folder in folders:
        if folder.path.exists():
            folder.dropping.touch()
    yield
    for folder in folders:
        folder.dropping.unlink(missing_ok=True)


def finish_dropping(uri: str) -> None:
    """Deletes what interrupted deletions left; nobody else may use the files."""
    for root in (Path(uri, "collections"), *Path(uri).glob("databases/*/collections")):
        for mark in root.glob(f"*{DROPPING}"):
            folder = Folder(mark.with_name(mark.name.removesuffix(DROPPING)))
            if folder.path.is_dir() and not folder.strangers():
                shutil.rmtree(folder.path)
            if not folder.path.exists():
                mark.unlink()


def _understood() -> bool:
    return version("milvus-lite") in _UNDERSTOOD
