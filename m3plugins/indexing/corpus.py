"""Documents from a `corpus.jsonl`: one JSON object a line, BEIR's format and a little more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3plugins.indexing.document import Document

_SHAPE = '{"_id": "…", "text": "…"}'


@dataclass(frozen=True)
class Rejected:
    """A place in a file that holds no document.

    Attributes:
        place: `file:line`, or the file.
        reason: What is wrong with it, cut at 500 characters: it may quote the file.
    """

    place: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shortened(self.reason, 500))


def shortened(text: str, longest: int = 4000) -> str:
    """The text, or its beginning and how much more there is.

    Example:
        >>> shortened("abcdef", 4)
        'abcd… (and 2 characters more)'
    """
    return text if len(text) <= longest else f"{text[:longest]}… (and {len(text) - longest} characters more)"


def read_corpus(path: Path) -> Iterator[Document | Rejected]:
    """The documents of a JSON lines file, streamed; blank lines are passed over.

    A line has `_id` (or `id`), `text` and, if it likes, `title`, `parent_id` and `metadata` (an object);
    any other key joins the metadata.

    Raises:
        OSError: If the file cannot be read.
    """
    return (item for _, item in read_places(path))


def read_places(path: Path) -> Iterator[tuple[str, Document | Rejected]]:
    """Reads as `read_corpus` does, each document with its place, `file:line`."""
    for number, row in read_jsonl(path):
        place = f"{path}:{number}"
        yield place, row if isinstance(row, Rejected) else document_of(row, place)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """The objects of a JSON lines file with their line numbers, which count from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, parse_object(line)
                except ValueError as err:
                    yield number, Rejected(f"{path}:{number}", str(err))


def parse_object(line: bytes) -> dict[str, Any]:
    """The object that a line of JSON holds.

    Raises:
        ValueError: If the line is not JSON in UTF-8, or no object, or one that has a key twice.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as err:
        ends = r", and end each line with \n: this one has \r in it" if b"\r" in line.rstrip() else ""
        msg = f"not a line of JSON in UTF-8: {err}; write one object a line{ends}"
        raise ValueError(msg) from err
    if not isinstance(row, dict):
        msg = f"a line must hold a JSON object, got {type(row).__name__}; write one object a line"
        raise ValueError(msg)
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        msg = f"an object has the key {twice!r:.80} twice"
        raise ValueError(msg)
    return row


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
    metadata = fields.pop("metadata", None)
    if not isinstance(metadata, Mapping | None):
        return Rejected(place, f"metadata must be an object, got {type(metadata).__name__}")
    metadata = metadata or {}
    twice = next((key for key in metadata if key in fields and fields[key] != metadata[key]), None)
    if twice is not None:
        return Rejected(place, f"the field {twice!r} has one value beside metadata and another within; keep one")
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
