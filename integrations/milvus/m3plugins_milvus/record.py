"""A record of a collection's files in Milvus Lite: sizes and checksums, by which a loss is noticed.

Lite keeps no checksums: it opens with what is left of a log or an older manifest, and finds less. So beside its files
is one of ours, renewed before a write is acknowledged and when the file is closed. It may be behind (a process was
killed, Lite merged files in the background, another program wrote), never ahead: what it names was there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m3plugins_milvus.folder import Folder, Manifest

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """A file, or the beginning of a log.

    Attributes:
        size: In bytes.
        crc: CRC-32 of these bytes.
        rows: How many rows a file of rows or deletions holds.
        changed: When it was changed last, in ns.
    """

    size: int
    crc: int
    rows: int = 0
    changed: int = 0

    def fault(self, file: Path) -> str:
        """How a file differs from this; "" if it does not. What follows in a log is no difference."""
        if file.stat().st_size < self.size:
            return f"has {file.stat().st_size:,} bytes of {self.size:,}"
        return "" if _crc(file, 0, self.size) == self.crc else "differs from what was written"


@dataclass(frozen=True)
class Record:
    """What was in a folder.

    Attributes:
        name: Of the collection.
        schema: The text of its schema.
        manifest: The text of its manifest.
        files: The files that the manifest names.
        logs: Its logs, by name.
        indexes: Search indexes, by the names of their files within `partitions`; Lite makes them from the rows.
    """

    name: str
    schema: str
    manifest: str
    files: Mapping[str, Entry] = field(default_factory=dict)
    logs: Mapping[str, Entry] = field(default_factory=dict)
    indexes: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Folder) -> Record | None:
        """The record of a folder; None if there is none that can be relied on."""
        try:
            crc, _, body = folder.record.read_bytes().partition(b"\n")
            if int(crc, 16) != zlib.crc32(body):
                return None
            content: dict[str, Any] = json.loads(body)
        except (OSError, ValueError):
            return None
        for part in ("files", "logs", "indexes"):
            content[part] = {name: Entry(**entry) for name, entry in content[part].items()}
        return cls(**content) if content["name"] == folder.name else None

    @classmethod
    def take(cls, folder: Folder, before: Record | None = None) -> Record | None:
        """The record of what is there now; `before` saves reading what it knows. None while it is being made."""
        try:
            schema, manifest = folder.schema.read_text("utf-8"), folder.manifest.read_text("utf-8")
            names = Manifest.parse(manifest.encode()).files
        except (FileNotFoundError, ValueError):
            return None
        root, known = folder.path / "partitions", before or cls(folder.name, "", "")
        files, logs, indexes = {}, {}, {}
        for name in names:
            with suppress(FileNotFoundError):  # merged meanwhile
                files[name] = _entry(root / name, known.files.get(name), rows=True)
        for log in folder.logs():
            with suppress(FileNotFoundError):  # flushed meanwhile
                logs[log.name] = _grown(log, known.logs.get(log.name))
        for index in root.glob("*/indexes/*"):
            with suppress(FileNotFoundError):
                name = index.relative_to(root).as_posix()
                indexes[name] = _entry(index, known.indexes.get(name), rows=False)
        return cls(folder.name, schema, manifest, files, logs, indexes)

    def write(self, folder: Folder) -> None:
        """Stores it, in one step."""
        body = json.dumps(asdict(self)).encode()
        building = folder.record.with_name(folder.record.name + ".tmp")
        building.write_bytes(b"%08x\n%b" % (zlib.crc32(body), body))
        os.replace(building, folder.record)


def _entry(file: Path, known: Entry | None, *, rows: bool) -> Entry:
    there = file.stat()
    if known is not None and (known.size, known.changed) == (there.st_size, there.st_mtime_ns):
        return known
    return Entry(there.st_size, _crc(file, 0, there.st_size), row_count(file) if rows else 0, there.st_mtime_ns)


def _grown(log: Path, known: Entry | None) -> Entry:
    """A log's entry: it only grows."""
    size = log.stat().st_size
    if known is None or size < known.size:
        known = Entry(0, 0)
    return Entry(size, _crc(log, known.size, size, known.crc))


def row_count(file: Path) -> int:
    """How many rows a file holds.

    Raises:
        ValueError: If it cannot be read.
    """
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)


def _crc(file: Path, start: int, end: int, crc: int = 0) -> int:
    with file.open("rb") as opened:
        opened.seek(start)
        while start < end and (data := opened.read(min(_CHUNK, end - start))):
            crc = zlib.crc32(data, crc)
            start += len(data)
    return crc
