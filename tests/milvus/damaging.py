"""Every kind of file of an index in Milvus Lite, damaged in every way, and what then happens.

The full table: `python -m benchmarks.lite_damage`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from m3plugins import HybridRetriever, M3Encoder
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.tiny import random_documents

NOBODY = 65534

KINDS = {
    "LOCK": "LOCK",
    "aliases": "aliases.json",
    "schema": "collections/docs/schema.json",
    "manifest": "collections/docs/manifest.json",
    "previous manifest": "collections/docs/manifest.json.prev",
    "record": "collections/docs/m3plugins.record",
    "rows": "collections/docs/partitions/*/data/*.parquet",
    "deletions": "collections/docs/partitions/*/delta/*.parquet",
    "search index": "collections/docs/partitions/*/indexes/*",
    "log of rows": "collections/docs/wal/wal_data_*",
    "log of deletions": "collections/docs/wal/wal_delta_*",
    "blocks' schema": "collections/docs__mv/schema.json",
    "blocks' manifest": "collections/docs__mv/manifest.json",
    "blocks' rows": "collections/docs__mv/partitions/*/data/*.parquet",
    "blocks' log": "collections/docs__mv/wal/wal_data_*",
}
"""The files of an index that a process was killed over: rows of it are in files, rows in logs."""


def _flip(file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    for position in range(len(data) // 3, len(data), max(len(data) // 5, 1)):
        data[position] ^= 0x55
    file.write_bytes(data)


def _forbid(file: Path, other: Path) -> None:
    file.chmod(0)


HARMS: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda file, other: file.unlink(),
    "empty": lambda file, other: file.write_bytes(b""),
    "cut in half": lambda file, other: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "bytes flipped": _flip,
    "of another index": lambda file, other: shutil.copy2(other, file),
    "foreign file beside it": lambda file, other: file.with_name("notes.txt").write_text("theirs"),
    "permission denied": _forbid,
}


def build(encoder: M3Encoder, folder: Path) -> Path:
    """An index and, beside it, another; of both, what a killed process leaves: files, and logs that hold more."""
    for name, seed in (("docs", 0), ("other", 1)):
        with MilvusHybridIndex.create(name, encoder=encoder, uri=folder / "m3.db") as index:
            index.upsert(random_documents(24 - seed, seed))
            index.delete([f"doc-{seed}"])
            index.swap(f"{name}_live")
    with (
        MilvusHybridIndex.open("docs", encoder=encoder, uri=folder / "m3.db") as index,
        MilvusHybridIndex.open("other", encoder=encoder, uri=folder / "m3.db") as other,
    ):
        for one, seed in ((index, 0), (other, 1)):
            one.writer.write(_batch(encoder, seed))  # without a flush
            one.delete([f"doc-{30 - seed}"])
        shutil.copytree(folder / "m3.db", folder / "killed.db")
    return folder / "killed.db"


def _batch(encoder: M3Encoder, seed: int):
    from m3plugins.indexing.writer import EmbeddedBatch

    documents = random_documents(32, seed)[24:]
    return EmbeddedBatch(
        documents, [d.digest() for d in documents], encoder.encode_documents([d.content for d in documents])
    )


@dataclass(frozen=True)
class Answers:
    """What an index says: how many, which, and what a search finds."""

    count: int
    ids: frozenset[str]
    hits: tuple[tuple[str, float], ...]


def answers(encoder: M3Encoder, uri: Path) -> Answers:
    """Of the index `docs`, opened and written to."""
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
        hits = HybridRetriever(index).search("the quick fox", k=50)
        found = Answers(
            index.count(), frozenset(d.id for d in index.scan()), tuple((h.id, round(h.score, 4)) for h in hits)
        )
        index.upsert(random_documents(1, 9))
        assert index.sweep() == 0
        return found


def harm(uri: Path, kind: str, way: str) -> Path | None:
    """Damages the last file of that kind; None if there is none."""
    files = sorted(uri.glob(KINDS[kind]))
    if not files:
        return None
    others = sorted(uri.glob(KINDS[kind].replace("docs", "other"))) if "docs" in KINDS[kind] else []
    if way == "of another index" and not others:
        return None
    HARMS[way](files[-1], others[-1] if others else files[-1])
    return files[-1]


@contextmanager
def unprivileged(uri: Path) -> Iterator[None]:
    """As a user whom permissions bind, who owns the files."""
    if os.geteuid() != 0:
        yield
        return
    for path in (uri, *uri.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def outcome(encoder: M3Encoder, uri: Path, kind: str, way: str, whole: Answers) -> str:
    """What happens; "SILENT" or "LOST" is what must not.

    Args:
        encoder: Of the index.
        uri: A copy of what `build` made, to be damaged.
        kind: Of KINDS.
        way: Of HARMS.
        whole: What the undamaged index answers.
    """
    file = harm(uri, kind, way)
    if file is None:
        return "-"
    before = {path: path.stat().st_mtime_ns for path in uri.rglob("*") if path.is_file()}
    try:
        with unprivileged(uri) if way == "permission denied" else nullcontext():
            found = answers(encoder, uri)
    except IndexNotFoundError:
        return "SILENT: no such index"
    except (MilvusIndexError, ValueError, OSError) as err:
        named = file.name in str(err) or "notes.txt" in str(err)
        if "damaged" not in str(err) and "permission" not in str(err).lower():
            return f"error: {str(err)[:80]}"
        gone = [path.name for path in before if "collections" in path.parts and not path.exists()]
        return f"LOST: {gone}" if gone else "refused by name" if named else f"refused: {str(err)[:80]}"
    if file.with_name("notes.txt") in before and not file.with_name("notes.txt").exists():
        return "LOST: the foreign file"
    return "complete" if found == whole else f"SILENT: {found.count} of {whole.count}"


def copy(source: Path, target: Path) -> Path:
    """A fresh copy."""
    if target.exists():
        for path in target.rglob("*"):
            os.chmod(path, 0o700)
        shutil.rmtree(target)
    return Path(shutil.copytree(source, target))
