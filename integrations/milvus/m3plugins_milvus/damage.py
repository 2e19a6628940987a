"""Damage to a collection's files in Milvus Lite, found before Lite opens it.

Lite takes the manifest before for one that it cannot read, passes over files that are missing, reads a log as far as
it can, and deletes the files that its manifest does not name. Each of these would be a silent loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from m3plugins_milvus.folder import Folder, Manifest, aliases_file, databases, first_row, log_number, parse_aliases
from m3plugins_milvus.record import Record, row_count


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file.

    Attributes:
        file: Which.
        fault: What is wrong, as the rest of a sentence that begins with the file.
    """

    file: Path
    fault: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}"


def find(folder: Folder) -> list[Damage]:
    """All that is wrong; nothing is where there is no folder, or one whose making was interrupted."""
    try:
        if not folder.path.exists() or (not folder.schema.exists() and not folder.holds_data()):
            return []
        record = Record.read(folder)
        manifest, found = _manifest(folder, record)
        found = [*_schema(folder, record), *found, *_logs(folder, record, manifest)]
        if manifest is not None:
            found += _files(folder, record, manifest)
            found += [] if found else _unnamed(folder, manifest)
    except PermissionError as err:
        return [Damage(Path(str(err.filename)), "cannot be read: permission denied")]
    return found


def _schema(folder: Folder, record: Record | None) -> list[Damage]:
    fault = _json_fault(folder.schema, _check_schema)
    if not fault and (content := json.loads(folder.schema.read_bytes()))["collection_name"] != folder.name:
        fault = f"is of the collection {content['collection_name']!r}"
    if not fault and record is not None and _fields(content) != _fields(json.loads(record.schema)):
        fault = "differs from what was written"
    return [Damage(folder.schema, fault)] if fault else []


def _manifest(folder: Folder, record: Record | None) -> tuple[Manifest | None, list[Damage]]:
    begun = folder.previous.exists() or folder.stored() or (folder.logs() and _is_ours(folder))
    fresh = record is None and not begun
    if fresh and not folder.manifest.exists():
        return None, []
    fault = _json_fault(folder.manifest, Manifest.parse)
    manifest = None if fault else Manifest.parse(folder.manifest.read_bytes())
    if manifest is not None and record is not None:
        written = Manifest.parse(record.manifest.encode())
        if manifest.version < written.version:
            fault = f"is older than what was written (version {manifest.version}, not {written.version})"
        elif manifest.version == written.version and manifest.content != written.content:
            fault = "differs from what was written"
    return (None, [Damage(folder.manifest, fault)]) if fault else (manifest, [])


def _logs(folder: Folder, record: Record | None, manifest: Manifest | None) -> Iterator[Damage]:
    there = {log.name: log for log in folder.logs()}
    for log in there.values():
        log.open("rb").close()  # Lite passes over one that it may not read
    for name, entry in record.logs.items() if record else ():
        log = folder.path / "wal" / name
        if name in there:
            if fault := entry.fault(log):
                yield Damage(log, fault)
        elif manifest is None or log_number(log) >= manifest.log:
            yield Damage(log, "is missing")


def _files(folder: Folder, record: Record | None, manifest: Manifest) -> Iterator[Damage]:
    fields = _columns(folder)
    for name in manifest.files:
        file = folder.path / "partitions" / name
        entry = record.files.get(name) if record else None
        if not file.is_file():
            yield Damage(file, f"is missing{f' ({entry.rows:,} rows)' if entry else ''}")
        elif entry is not None:
            if (fault := entry.fault(file)) or (fault := "is longer than it was" * (file.stat().st_size > entry.size)):
                yield Damage(file, f"{fault} ({entry.rows:,} rows)")
        elif fault := parquet_fault(file, fields):
            yield Damage(file, fault)


def _unnamed(folder: Folder, manifest: Manifest) -> Iterator[Damage]:
    """Files that Lite would delete, though what they hold is nowhere else, or though they are not its own."""
    for file in folder.strangers():
        if file.parent.name in ("data", "delta") and file.parent.parent.parent == folder.path / "partitions":
            yield Damage(file, "is not of Milvus Lite, which would delete it; move it elsewhere")
    files = folder.stored()
    extra = {name: file for name, file in files.items() if name not in manifest.files}
    if not extra:
        return
    key = _primary(folder)
    elsewhere = [rows(file, key) for name, file in files.items() if name in manifest.files]
    elsewhere += [logged(log, key) for log in folder.logs()]
    newest = _newest(elsewhere)
    for file in extra.values():
        try:
            held = rows(file, key)
        except (OSError, ValueError, KeyError):
            if not any(seq == first_row(file) for some in elsewhere for _, seq in some):  # one that a kill cut short
                yield Damage(file, "cannot be read, and the manifest does not name it; move it elsewhere")
            continue
        # A deletion of what is nowhere deletes nothing.
        lost = sum(newest.get(pk, -1 if file.parent.name == "data" else seq) < seq for pk, seq in held)
        if lost:
            told = "holds 1 row or deletion that is" if lost == 1 else f"holds {lost:,} rows or deletions that are"
            yield Damage(file, f"{told} nowhere else, and the manifest does not name it")


def _newest(parts: Iterable[list[tuple[Any, int]]]) -> dict[Any, int]:
    newest: dict[Any, int] = {}
    for pk, seq in chain.from_iterable(parts):
        newest[pk] = max(seq, newest.get(pk, -1))
    return newest


def rows(file: Path, key: str) -> list[tuple[Any, int]]:
    """Primary keys and sequence numbers in a file."""
    import pyarrow.parquet as pq

    return _pairs(pq.read_table(file, columns=[key, "_seq"]), key)


def logged(log: Path, key: str) -> list[tuple[Any, int]]:
    """Primary keys and sequence numbers in a log, as far as it can be read."""
    return [pair for batch in batches(log) for pair in _pairs(batch, key)]


def batches(log: Path) -> list[Any]:
    """The Arrow batches of a log, as far as it can be read."""
    import pyarrow as pa

    found = []
    with suppress(pa.ArrowInvalid), pa.OSFile(str(log), "rb") as source:  # a process was killed as it wrote
        for batch in pa.ipc.open_stream(source):
            batch.validate(full=True)
            found.append(batch)
    return found


def living(files: list[Path], logs: list[Path], key: str) -> int:
    """How many rows there are with these files and logs: of each key the newest, unless it is deleted later."""
    held = [(file, rows(file, key)) for file in files] + [(log, logged(log, key)) for log in logs]
    deleted = _newest(some for file, some in held if "delta" in file.name)
    stored = _newest(some for file, some in held if "delta" not in file.name)
    return sum(deleted.get(pk, -1) < seq for pk, seq in stored.items())


def _pairs(table: Any, key: str) -> list[tuple[Any, int]]:
    return list(zip(table.column(key).to_pylist(), table.column("_seq").to_pylist(), strict=True))


def _primary(folder: Folder) -> str:
    fields = json.loads(folder.schema.read_bytes())["fields"]
    return next(str(field["name"]) for field in fields if field.get("is_primary"))


def _columns(folder: Folder) -> set[str] | None:
    """The fields of a collection, if its schema can be read."""
    if _json_fault(folder.schema, _check_schema):
        return None
    return {field["name"] for field in json.loads(folder.schema.read_bytes())["fields"]}


def parquet_fault(file: Path, fields: set[str] | None) -> str:
    """Says why a file of rows or deletions cannot be one of a collection with these fields; "" if it can."""
    import pyarrow.parquet as pq

    try:
        row_count(file)
        columns = set(pq.read_schema(file).names) - {"_seq", "$meta"}
    except PermissionError:
        raise
    except (OSError, ValueError):
        return "is not a whole Parquet file"
    wrong = fields is not None and (columns != fields if file.parent.name == "data" else not columns <= fields)
    return "has the fields of another collection" if wrong else ""


def _json_fault(file: Path, parse: Callable[[bytes], object]) -> str:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except IsADirectoryError:
        return "is a folder"
    if not data:
        return "is empty"
    try:
        parse(data)
    except (ValueError, RecursionError):
        return "is damaged"
    return ""


def _check_schema(data: bytes) -> None:
    try:
        content = json.loads(data)
        names = [content["collection_name"], *(field["name"] for field in content["fields"])]
        if not any(field.get("is_primary") for field in content["fields"]) or not all(names):
            raise TypeError
    except (KeyError, TypeError, AttributeError) as err:
        raise ValueError from err


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    """What decides how rows are read."""
    return {part: schema.get(part) for part in ("fields", "functions", "enable_dynamic_field")}


def aliases(uri: str, database: str) -> tuple[dict[str, str], list[Damage]]:
    """The aliases of a database, and what is wrong with their file."""
    file = aliases_file(uri, database)
    if not file.exists():
        return {}, []
    try:
        fault = _json_fault(file, parse_aliases)
    except PermissionError:
        fault = "cannot be read: permission denied"
    return ({}, [Damage(file, fault)]) if fault else (parse_aliases(file.read_bytes()), [])


def damaged_aliases(uri: Path) -> list[Damage]:
    """The files of aliases that are damaged, of all databases."""
    return [one for database in databases(uri) for one in aliases(str(uri), database)[1]]


def find_in_index(documents: Folder, blocks: Folder) -> list[Damage]:
    """All that is wrong with the two collections of an index, or that one of them is gone."""
    found = [*find(documents), *find(blocks)]
    if found or blocks.dropping.exists() or documents.dropping.exists():
        return found
    if blocks.record.exists() and not documents.path.exists():
        return [Damage(documents.path, f"is missing, and {blocks.path} holds its token vectors")]
    if documents.record.exists() and _is_ours(documents) and not blocks.path.exists():
        return [Damage(blocks.path, f"is missing, and {documents.path} holds its documents")]
    return []


def _is_ours(folder: Folder) -> bool:
    """Whether a collection has the fields of our documents or of our blocks."""
    columns = _columns(folder) or set()
    return columns >= {"vector_blocks", "text_blocks", "revision"} or columns == {"key", "shard", "data", "unused"}
