"""Documents from a `corpus.jsonl`: one JSON object a line, BEIR's format and a little more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3plugins.retrieval.document import Document

_SHAPE = '{"_id": "…", "text": "…"}'


@dataclass(frozen=True)
class Rejected:
    """A place in a file that holds no document.

    Attributes:
        place: `file:line`, or the file.
        reason: What is wrong with it.
    """

    place: str
    reason: str


def read_corpus(path: Path) -> Iterator[Document | Rejected]:
    """The documents of a JSON lines file, streamed; blank lines are passed over.

    A line has `_id` (or `id`), `text` and, if it likes, `title`, `parent_id` and `metadata` (an object);
    any other key joins the metadata.

    Raises:
        OSError: If the file cannot be read.
    """
    return (item for _, item in read_places(path))


def read_places(path: Path) -> Iterator[tuple[str, Document | Rejected]]:
    """As `read_corpus`, each with its place, `file:line`."""
    for number, row in read_jsonl(path):
        place = f"{path}:{number}"
        yield place, row if isinstance(row, Rejected) else document_of(row, place)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """The objects of a JSON lines file with their line numbers, which count from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse(line, f"{path}:{number}")


def document_of(row: Mapping[str, Any], place: str) -> Document | Rejected:
    """The document that a row describes; see `read_corpus`."""
    fields = dict(row)
    identity = fields.pop("_id") if "_id" in fields else fields.pop("id", None)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if identity is None or "text" not in fields:
        missing = "text" if identity is not None else "_id (or id)"
        has = ", ".join(sorted(row)) or "nothing"
        return Rejected(place, f"a document needs {missing}; this one has {has}; write {_SHAPE}")
    text, title, parent_id = fields.pop("text"), fields.pop("title", None), fields.pop("parent_id", None)
    metadata = fields.pop("metadata", None) or {}
    if not isinstance(metadata, Mapping):
        return Rejected(place, f"metadata must be an object, got {type(metadata).__name__}")
    document = Document(
        id=identity,
        text=text,
        title="" if title is None else title,
        parent_id=parent_id,
        metadata={**fields, **metadata},
    )
    try:
        document.check()
    except ValueError as err:
        return Rejected(place, str(err))
    return document


def _parse(line: bytes, place: str) -> dict[str, Any] | Rejected:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        return Rejected(place, f"not a line of JSON in UTF-8: {err}; write one object a line")
    if not isinstance(row, dict):
        return Rejected(place, f"a line must hold a JSON object, got {type(row).__name__}; write {_SHAPE}")
    return row
