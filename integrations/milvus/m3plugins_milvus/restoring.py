"""What can be restored of a damaged collection's files in Milvus Lite; `m3 doctor --repair` does it, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m3plugins_milvus import damage, requests, schema
from m3plugins_milvus.client import connect
from m3plugins_milvus.damage import Damage
from m3plugins_milvus.folder import Folder, Manifest, first_row
from m3plugins_milvus.identity import IDENTITY_KEY
from m3plugins_milvus.record import Record
from m3plugins_milvus.schema import BLOCKS_SUFFIX, KEY


@dataclass(frozen=True)
class Plan:
    """How the files of a collection become whole again.

    Attributes:
        folder: Of the collection.
        writes: What is written, by file.
        aside: Files that are taken away.
        told: What that restores and what is lost, as sentences.
    """

    folder: Folder
    writes: Mapping[Path, bytes] = field(default_factory=dict)
    aside: tuple[Path, ...] = ()
    told: str = ""

    def carry_out(self, uri: Path, backup: Path) -> None:
        """Does it; whatever is replaced or taken away goes to the same place below `backup`."""
        record = self.folder.record
        for file in (*self.writes, *self.aside, record):
            if file.exists():
                kept = backup / file.relative_to(uri)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, kept) if file in self.aside else shutil.copy2(file, kept)
        for file, data in self.writes.items():
            building = file.with_name(file.name + ".tmp")
            building.write_bytes(data)
            os.replace(building, file)
        record.unlink(missing_ok=True)
        if (taken := Record.take(self.folder)) is not None:
            taken.write(self.folder)


def plan(folder: Folder, found: list[Damage]) -> Plan | None:
    """How to restore a collection of which this is damaged; None if nothing of it can be."""
    if not folder.path.is_dir() or any("permission" in one.fault or "would delete" in one.fault for one in found):
        return None
    wrong = {one.file for one in found}
    record, writes, told = Record.read(folder), dict[Path, bytes](), []
    made = None
    if record is None and wrong & {folder.schema, folder.manifest} and (made := _made(folder)) is None:
        return None
    if folder.schema in wrong:
        writes[folder.schema] = record.schema.encode() if record else made[0] if made else b""
        told.append("schema.json can be restored" if record else "schema.json can be made anew")
    fields = json.loads(writes.get(folder.schema) or folder.schema.read_bytes())["fields"]
    key, columns = next(one["name"] for one in fields if one.get("is_primary")), {one["name"] for one in fields}
    whole, lost = _sorted_out(folder, record, columns)
    logs = {log: damage.logged(log, key) for log in folder.logs()}
    differing = tuple(log for log in logs if log in wrong and "differs" in _faults(found, log))
    content = _manifest(folder, wrong, record, made[1] if made else None, whole, logs, key)
    if content is not None:
        writes[folder.manifest] = json.dumps(content, indent=2, sort_keys=True).encode()
        files = [name for part in content["partitions"] for name in _named(content, part)]
        rows = damage.living([whole[name] for name in files], [log for log in logs if log not in differing], key)
        told.append(f"manifest.json can be made from {len(files)} files and {len(logs)} logs, with {rows:,} rows")
    for name, entry in (record.files if record else {}).items():
        if name not in whole:
            lost.setdefault(folder.path / "partitions" / name, entry.rows)
    told += [f"{file.name} is lost{f' with {rows:,} rows' if rows else ''}" for file, rows in lost.items()]
    told += [
        f"{one.file.name} {one.fault}: rows written last are lost" for one in found if one.file.parent.name == "wal"
    ]
    aside = (*(file for file in lost if file.exists()), *differing)
    return Plan(folder, writes, aside, "; ".join(told))


def _manifest(
    folder: Folder,
    wrong: set[Path],
    record: Record | None,
    made: bytes | None,
    whole: Mapping[str, Path],
    logs: Mapping[Path, list[tuple[str, int]]],
    key: str,
) -> dict[str, Any] | None:
    """The newest manifest that there is, with every whole file that is there; None if it is that already.

    Naming a file too many is safe: of the rows of one key Lite takes the newest, and a deletion is of what was before.
    """
    current = None if folder.manifest in wrong else Manifest.parse(folder.manifest.read_bytes())
    known = [current, _parsed(folder.previous), _parse(record.manifest.encode() if record else made)]
    base = max((one for one in known if one is not None), key=lambda one: one.version, default=None)
    if base is None:
        return None
    # What a flush did not finish is in the log still.
    in_logs = min((seq for rows in logs.values() for _, seq in rows), default=None)
    names = [
        name
        for name, file in whole.items()
        if (name in base.files or in_logs is None or first_row(file) < in_logs)
        and (current is None or name in current.files or file in wrong)
    ]
    if current is not None and sorted(names) == sorted(current.files):
        return None
    partitions: dict[str, dict[str, list[str]]] = {
        part: {"data_files": [], "delta_files": []} for part in base.content["partitions"]
    }
    for name in names:
        part, _, file = name.partition("/")
        kinds = partitions.setdefault(part, {"data_files": [], "delta_files": []})
        kinds["delta_files" if file.startswith("delta/") else "data_files"].append(file)
    newest = max((seq for name in names for _, seq in damage.rows(whole[name], key)), default=0)
    seen = max(one.version for one in known if one is not None)
    return {
        **base.content,
        "partitions": partitions,
        "version": seen + 1,
        "current_seq": max(int(base.content["current_seq"]), newest),
    }


def _sorted_out(folder: Folder, record: Record | None, columns: set[str]) -> tuple[dict[str, Path], dict[Path, int]]:
    """The files of rows that are whole, and those that are not, with how many rows they had."""
    whole, broken = {}, {}
    for name, file in folder.stored().items():
        entry = record.files.get(name) if record else None
        if entry.fault(file) or entry.size != file.stat().st_size if entry else damage.parquet_fault(file, columns):
            broken[file] = entry.rows if entry else 0
        else:
            whole[name] = file
    return whole, broken


def _named(content: Mapping[str, Any], part: str) -> list[str]:
    files = content["partitions"][part]
    return [f"{part}/{file}" for file in (*files["data_files"], *files["delta_files"])]


def _faults(found: list[Damage], file: Path) -> str:
    return "; ".join(one.fault for one in found if one.file == file)


def _parsed(file: Path) -> Manifest | None:
    return _parse(file.read_bytes()) if file.exists() else None


def _parse(data: bytes | None) -> Manifest | None:
    try:
        return Manifest.parse(data) if data else None
    except ValueError:
        return None


def _made(folder: Folder) -> tuple[bytes, bytes] | None:
    """Schema and manifest as `create` makes them; None if it is not known what the index was made with."""
    name = folder.name
    if name.endswith(BLOCKS_SUFFIX):
        fields, index = schema.blocks_schema(), schema.blocks_index()
    else:
        stored = _identity(Folder(folder.path.with_name(name + BLOCKS_SUFFIX)))
        if stored is None:
            return None
        bm25 = stored.get("bm25")
        fields = schema.documents_schema(stored["dim"], tenant=stored.get("tenant") is not None, bm25=bm25)
        index = schema.documents_index(stored["dense_index"], bm25=bm25 is not None)
    with tempfile.TemporaryDirectory() as scratch:
        uri = Path(scratch, "made.db")
        with closing(connect(uri)) as connection:
            connection.client.create_collection(**requests.create(name, fields, index))
        made = Folder.of(uri, "", name)
        return made.schema.read_bytes(), made.manifest.read_bytes()


def _identity(blocks: Folder) -> dict[str, Any] | None:
    """What the index was made with, read from the files."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["_seq", KEY, "data"]
    found: list[tuple[int, str]] = []
    tables = []
    for file in blocks.stored().values():
        if file.parent.name == "data" and not damage.parquet_fault(file, None):
            tables.append(pq.read_table(file, columns=columns, filters=[(KEY, "=", IDENTITY_KEY)]))
    for log in blocks.logs():
        if log.name.startswith("wal_data"):
            tables += [batch.select(columns) for batch in damage.batches(log)]
    for table in tables:
        own = table.filter(pc.equal(table.column(KEY), pa.scalar(IDENTITY_KEY)))
        found += zip(own.column("_seq").to_pylist(), own.column("data").to_pylist(), strict=True)
    newest = max(found, default=(0, ""))[1]
    return json.loads(newest) if newest.startswith("{") else None
