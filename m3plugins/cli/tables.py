"""CSV and TSV as documents."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from m3plugins.cli.errors import CallError
from m3plugins.indexing.corpus import Rejected, document_of, shortened
from m3plugins.indexing.document import Document

_CELL_LIMIT = 1 << 27
"""Characters of a cell, of which csv holds 4 bytes each; csv's own limit of 128 KiB is less than a long document."""

_QUOTE = 'close each quote, write " in a cell as "", and put a cell that begins with " in quotes'

Rows = Iterator[tuple[str, Document | Rejected]]
"""Each with its place, `file:line`."""


def reader(path: Path) -> Callable[[], Rows]:
    """Returns a reader of the rows of a file, with tabs between the cells of a .tsv.

    Raises:
        CallError: If the first line does not name the columns.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(_CELL_LIMIT)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            header = next(csv.reader(file, delimiter=delimiter, strict=True), [])
        except csv.Error as err:
            msg = f"{path}:1: not CSV: {err}; name the columns there, with id and text among them"
            raise CallError(msg) from err
    if not _is_utf8(header):
        msg = f"the first line of {path} is not UTF-8; save the file as UTF-8"
        raise CallError(msg)
    if "text" not in header or not {"_id", "id"} & set(header) or len(set(header)) < len(header):
        got = shortened(str(header), 500)
        msg = f"the first line of {path} must name its columns, each once, with id and text among them; got {got}"
        raise CallError(msg)
    return lambda: _rows(path, delimiter)


def _rows(path: Path, delimiter: str) -> Rows:
    """Reads rows: an empty cell is a field that is not there, and bytes that are not UTF-8 fail the row.

    A row with a misplaced quote fails. If its quotes are even in number, the next row begins on the next line. If not,
    one is missing, and nobody can tell whether the next line is a row or belongs to a cell: all from there on fails.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        quotes: list[int] = []  # of each line of a row
        lines = csv.reader(_counted(file, quotes), delimiter=delimiter, strict=True)  # else an open quote is no error
        header = next(lines)
        while True:
            quotes.clear()
            first = lines.line_num + 1
            place = f"{path}:{first}"
            try:
                row = next(lines)
            except StopIteration:
                return
            except csv.Error as err:
                lost = sum(quotes) % 2 == 1 or "field limit" in str(err)
                unread = f"nothing from line {first} on" if lost else f"no line from {first} to {lines.line_num}"
                yield place, Rejected(place, f"not CSV: {err}; {unread} is read; {_QUOTE}")
                if lost:
                    return
                continue
            if row:
                yield place, _document(row, header, place, delimiter)


def _counted(lines: Iterable[str], quotes: list[int]) -> Iterator[str]:
    """Yields the lines, and adds the number of quotes of each to `quotes`."""
    for line in lines:
        quotes.append(line.count('"'))
        yield line


def _document(row: list[str], header: list[str], place: str, delimiter: str) -> Document | Rejected:
    if len(row) != len(header):
        reason = f"a row needs the header's {len(header)} cells, this one has {len(row)}; quote a {delimiter!r}"
        return Rejected(place, f"{reason} within a cell")
    if not _is_utf8(row):
        return Rejected(place, "not UTF-8; save the file as UTF-8")
    named = dict(zip(header, row, strict=True))
    return document_of({k: v for k, v in named.items() if v or k == "text"}, place)


def _is_utf8(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True
