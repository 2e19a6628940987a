"""What `m3 index` reads: JSON lines, CSV, and folders of text files, as streams of documents."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from m3plugins.cli.errors import CallError
from m3plugins.retrieval.corpus import Rejected, document_of, read_corpus
from m3plugins.retrieval.document import Document

TEXT_SUFFIXES = (".txt", ".md")
_CELL_LIMIT = 1 << 30


@dataclass(frozen=True)
class Source:
    """Documents to come.

    Attributes:
        read: Begins the stream; what holds no document comes as `Rejected`.
        count: Counts them, as fast as the format allows.
    """

    read: Callable[[], Iterator[Document | Rejected]]
    count: Callable[[], int]


def source(path: Path) -> Source:
    """The reader for a path, by what it is.

    Raises:
        CallError: If it is nothing that can be read.
    """
    if path.is_dir() and (path / "corpus.jsonl").is_file():
        path = path / "corpus.jsonl"
    if path.is_dir():
        files = _text_files(path)
        if not files:
            msg = f"{path} has no corpus.jsonl and no text files ({', '.join(TEXT_SUFFIXES)})"
            raise CallError(msg)
        return Source(lambda: (_read_text(file, path) for file in files), lambda: len(files))
    if not path.is_file():
        msg = f"there is no file or folder {path}"
        raise CallError(msg)
    if path.suffix in (".jsonl", ".ndjson"):
        return Source(lambda: read_corpus(path), lambda: _count_lines(path))
    if path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        _check_header(path, delimiter)
        return Source(lambda: _read_csv(path, delimiter), lambda: sum(1 for _ in _read_csv(path, delimiter)))
    if path.suffix in TEXT_SUFFIXES:
        return Source(lambda: iter([_read_text(path, path.parent)]), lambda: 1)
    msg = f"{path} must be a BEIR folder, a folder of text files, or a .jsonl, .csv, .tsv, .txt or .md file"
    raise CallError(msg)


def _text_files(folder: Path) -> list[Path]:
    """Text files in the folder and below, in order; not those in hidden folders."""
    found = (file for file in folder.rglob("*") if file.suffix in TEXT_SUFFIXES and file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _read_text(file: Path, folder: Path) -> Document | Rejected:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        return Rejected(str(file), f"not readable as UTF-8 text: {err}")
    return document_of({"_id": file.relative_to(folder).as_posix(), "text": text}, str(file))


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _check_header(path: Path, delimiter: str) -> None:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    if "text" not in header or not {"_id", "id"} & set(header) or len(set(header)) < len(header):
        msg = f"the first line of {path} must name its columns, each once, with id and text among them; got {header}"
        raise CallError(msg)


def _read_csv(path: Path, delimiter: str) -> Iterator[Document | Rejected]:
    """Rows as documents; an empty cell is a field that is not there. Bytes that are not UTF-8 fail the row."""
    csv.field_size_limit(_CELL_LIMIT)  # csv's own limit of 128 KiB is less than a long document
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next(reader)
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as err:
                yield Rejected(place, f"not CSV: {err}")
                continue
            if not row:
                continue
            if len(row) != len(header):
                yield Rejected(place, f"a row needs the header's {len(header)} cells, this one has {len(row)}")
                continue
            named = dict(zip(header, row, strict=True))
            yield document_of({k: v for k, v in named.items() if v or k == "text"}, place)
