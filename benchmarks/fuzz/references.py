"""Readers written apart from those that are tested: which documents a file holds, and where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

_MARKER = re.compile(r"marker\d+")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_HIDDEN = ("script", "style", "template")


@dataclass(frozen=True)
class Record:
    """A record that should become one document.

    Attributes:
        places: Names of it in a report, of which one must be there.
        id: Id of the document; None where there can be none.
        text: Text of the document; None where only its words are known.
        words: Words that its title and text must have.
    """

    places: frozenset[str]
    id: str | None = None
    text: str | None = None
    words: frozenset[str] = frozenset()


def records(path: Path, place: str, id: str) -> list[Record]:
    """The records of a file.

    Args:
        path: The file.
        place: Name of the file in reports.
        id: Id of its document, if the file is one document.
    """
    data, suffix = path.read_bytes(), path.suffix
    if suffix == ".jsonl":
        return list(_json_lines(data, place))
    if suffix in (".csv", ".tsv"):
        return list(_table(data, place, "\t" if suffix == ".tsv" else ","))
    text = _decoded(data)
    if text is None:
        return [Record(frozenset([place]))]
    if suffix in (".txt", ".md"):
        return [Record(frozenset([place]), id, text)]
    return [Record(frozenset([place]), id, words=frozenset(_visible(text)) if suffix == ".html" else frozenset())]


def _json_lines(data: bytes, place: str) -> Iterator[Record]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield _row(_parsed(line), [f"{place}:{number}"])


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _row(row: object, places: Iterable[str]) -> Record:
    if not isinstance(row, dict):
        return Record(frozenset(places))
    identity, text = row.get("_id", row.get("id")), row.get("text")
    identity = str(identity) if type(identity) is int and abs(identity) < 10**4000 else identity
    if not isinstance(identity, str) or not isinstance(text, str):
        return Record(frozenset(places))
    return Record(frozenset(places), identity, text)


def _table(data: bytes, place: str, delimiter: str) -> Iterator[Record]:
    """RFC 4180, where a quote within a cell that is not quoted is a character as any."""
    rows = list(_split(data.decode("utf-8-sig", "surrogateescape"), delimiter))
    header = rows[0][1] if rows and rows[0][1] else []
    for lines, cells in rows[1:]:
        places = [f"{place}:{line}" for line in lines]
        if cells is None or len(cells) != len(header):
            yield Record(frozenset(places))
        else:
            yield _row({name: cell for name, cell in zip(header, cells, strict=True) if cell or name == "text"}, places)


def _split(text: str, delimiter: str) -> Iterator[tuple[range, list[str] | None]]:
    """The lines and the cells of each row, None for what are no cells; empty lines are no rows."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    number = 0
    while number < len(lines):
        start, row, cells = number, lines[number], None
        while (cells := _cells(row, delimiter)) is None and number + 1 < len(lines) and _open(row, delimiter):
            number += 1
            row += lines[number]
        number += 1
        if row.strip("\r\n"):
            yield range(start + 1, number + 1), cells


def _cell(delimiter: str) -> str:
    return rf'"(?:[^"]|"")*"|[^{delimiter}"\r\n][^{delimiter}\r\n]*|'


def _cells(row: str, delimiter: str) -> list[str] | None:
    cell = _cell(delimiter)
    if not re.fullmatch(rf"(?:(?:{cell}){delimiter})*(?:{cell})(?:\r\n|\r|\n)?", row):
        return None
    found = re.findall(rf"(?:^|{delimiter})({cell})", row.rstrip("\r\n") if not row.endswith('"') else row)
    return [re.sub(r'""', '"', part[1:-1]) if part.startswith('"') else part for part in found]


def _open(row: str, delimiter: str) -> bool:
    """Tells whether a row ends within a quoted cell."""
    cell = _cell(delimiter)
    return re.fullmatch(rf'(?:(?:{cell}){delimiter})*"(?:[^"]|"")*', row) is not None


def _decoded(data: bytes) -> str | None:
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeError:
        return None
    return None if "\0" in text else re.sub(r"\r\n?", "\n", text)


def _visible(html: str) -> set[str]:
    reader = _Visible()
    reader.feed(html)
    reader.close()
    return reader.words


class _Visible(HTMLParser):
    """Markers that are no part of scripts and the like, as far as that is beyond doubt."""

    def __init__(self) -> None:
        super().__init__()
        self.words: set[str] = set()
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden |= tag in _HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self._hidden &= tag not in _HIDDEN

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words |= set(_MARKER.findall(data))
