"""CSV and TSV as documents."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from m3plugins.cli.errors import CallError
from m3plugins.retrieval.corpus import Rejected, document_of
from m3plugins.retrieval.document import Document

_CELL_LIMIT = 1 << 30

Rows = Iterator[tuple[str, Document | Rejected]]
"""Each with its place, `file:line`."""


def reader(path: Path) -> Callable[[], Rows]:
    """What reads the rows of a file, tabs between the cells of a .tsv.

    Raises:
        CallError: If the first line does not name the columns.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(_CELL_LIMIT)  # csv's own limit of 128 KiB is less than a long document
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            header = next(csv.reader(file, delimiter=delimiter, strict=True), [])
        except csv.Error as err:
            msg = f"{path}:1: not CSV: {err}; name the columns there, with id and text among them"
            raise CallError(msg) from err
    if "text" not in header or not {"_id", "id"} & set(header) or len(set(header)) < len(header):
        msg = f"the first line of {path} must name its columns, each once, with id and text among them; got {header}"
        raise CallError(msg)
    return lambda: _rows(path, delimiter)


def _rows(path: Path, delimiter: str) -> Rows:
    """An empty cell is a field that is not there. Bytes that are not UTF-8 fail the row."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)  # else an open quote swallows all rows after it
        header = next(lines)
        while True:
            place = f"{path}:{lines.line_num + 1}"
            try:
                row = next(lines)
            except StopIteration:
                return
            except csv.Error as err:
                yield place, Rejected(place, f'not CSV: {err}; close each quote, and write " in a cell as ""')
                continue
            if not row:
                continue
            if len(row) != len(header):
                reason = f"a row needs the header's {len(header)} cells, this one has {len(row)}; quote a {delimiter!r}"
                yield place, Rejected(place, f"{reason} within a cell")
                continue
            named = dict(zip(header, row, strict=True))
            yield place, document_of({k: v for k, v in named.items() if v or k == "text"}, place)
