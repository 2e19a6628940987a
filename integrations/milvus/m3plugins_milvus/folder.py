"""A collection's folder in Milvus Lite, read without Lite, which deletes what its manifest does not name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3plugins_milvus.schema import BLOCKS_SUFFIX

RECORD = "m3plugins.record"
DROPPING = ".dropping"

_LOG = re.compile(r"wal_(data|delta)_(\d+)\.arrow")
_STORED = {"data": re.compile(r"data_(\d+)_\d+\.parquet"), "delta": re.compile(r"delta_(\d+)_\d+\.parquet")}
_KNOWN = re.compile(
    r"(schema\.json|manifest\.json(\.prev)?)(\.tmp)?|wal/wal_(data|delta)_\d+\.arrow"
    r"|partitions/[^/]+/(data/data|delta/delta)_\d+_\d+\.parquet|partitions/[^/]+/indexes/[^/]+\.s?idx|snapshots/.*|"
    + re.escape(RECORD)
    + r"(\.tmp)?"
)


@dataclass(frozen=True)
class Folder:
    """Where the files of one collection are.

    Attributes:
        path: Of the folder; its name is the collection's.
    """

    path: Path

    @classmethod
    def of(cls, uri: str | Path, database: str, name: str) -> Folder:
        """The folder of a collection in Milvus Lite at `uri`."""
        return cls(_collections(Path(uri), database) / name)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.path.name

    @property
    def schema(self) -> Path:
        """Its fields."""
        return self.path / "schema.json"

    @property
    def manifest(self) -> Path:
        """Which files hold its rows."""
        return self.path / "manifest.json"

    @property
    def previous(self) -> Path:
        """The manifest before the last change, to which Lite falls back."""
        return self.path / "manifest.json.prev"

    @property
    def record(self) -> Path:
        """What was here when it was last written; see `record`."""
        return self.path / RECORD

    @property
    def dropping(self) -> Path:
        """A mark beside the folder: what is left in it is to be deleted."""
        return self.path.with_name(self.name + DROPPING)

    def logs(self) -> list[Path]:
        """Rows that are in no file yet, the oldest first."""
        found = [file for file in self.path.glob("wal/*") if _LOG.fullmatch(file.name)]
        return sorted(found, key=lambda file: (log_number(file), file.name))

    def stored(self) -> dict[str, Path]:
        """The files of rows and of deletions, by their names within `partitions`."""
        root = self.path / "partitions"
        files = [file for kind, named in _STORED.items() for file in root.glob(f"*/{kind}/*") if named.match(file.name)]
        return {file.relative_to(root).as_posix(): file for file in sorted(files)}

    def strangers(self) -> list[Path]:
        """Files that are not Lite's and not ours."""
        files = (file for file in sorted(self.path.rglob("*")) if not file.is_dir() or file.is_symlink())
        return [file for file in files if not _KNOWN.fullmatch(file.relative_to(self.path).as_posix())]

    def holds_data(self) -> bool:
        """Whether anything is here that making a collection does not leave before there is a schema."""
        begun = {self.path / "schema.json.tmp"}
        return any(file not in begun and not file.is_dir() for file in self.path.rglob("*"))


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        version: Counts its changes.
        log: Number of the first log whose rows are in no file.
        files: The files of rows and of deletions, as `Folder.stored` names them.
        content: All of it, as it is stored.
    """

    version: int
    log: int
    files: tuple[str, ...]
    content: dict[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Reads it more strictly than Lite, which takes a part that is missing for an empty one.

        Raises:
            ValueError: If a part is missing or of another type.
        """
        try:
            content = json.loads(data)
            version, log, _ = int(content["version"]), content["active_wal_number"], int(content["current_seq"])
            files = [
                f"{partition}/{file}"
                for partition, some in content["partitions"].items()
                for file in (*some["data_files"], *some["delta_files"])
            ]
            if not isinstance(content["index_specs"], dict):
                raise TypeError
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as err:
            msg = "is not a manifest of Milvus Lite"
            raise ValueError(msg) from err
        return cls(version, log or 0, tuple(files), content)


def log_number(log: Path) -> int:
    """The number of a log, by its name."""
    return int(log.stem.rpartition("_")[2])


def first_row(file: Path) -> int:
    """The least sequence number that a file can hold, by its name."""
    return int(file.stem.split("_")[1])


def databases(uri: Path) -> list[str]:
    """The names of the databases; "" is the default one."""
    return ["", *(path.name for path in sorted(uri.glob("databases/*")) if path.is_dir())]


def indexes(uri: str | Path, database: str) -> list[tuple[Folder, Folder]]:
    """Where each index has, or should have, its documents and its blocks; also of others' collections."""
    root = _collections(Path(uri), database)
    names = {path.name.removesuffix(BLOCKS_SUFFIX) for path in root.glob("*") if path.is_dir()}
    return [(Folder(root / name), Folder(root / (name + BLOCKS_SUFFIX))) for name in sorted(names)]


def aliases_file(uri: str | Path, database: str) -> Path:
    """Where the aliases of a database are."""
    return _collections(Path(uri), database).with_name("aliases.json")


def parse_aliases(data: bytes) -> dict[str, str]:
    """The collection's name by the alias.

    Raises:
        ValueError: If it is none of Milvus Lite's.
    """
    aliases = json.loads(data)
    if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
        msg = "is not a file of Milvus Lite's aliases"
        raise ValueError(msg)
    return aliases


def _collections(uri: Path, database: str) -> Path:
    return (uri / "databases" / database if database not in ("", "default") else uri) / "collections"
