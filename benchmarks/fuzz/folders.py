"""Edits of the files of a folder: their JSON, their bytes, and what they are."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.edits import Case, Edit, splices, tree_edits

OUTSIDE = "outside"
"""A copy of the folder beside it, which nothing but a link in the folder may lead to."""

Likely = Mapping[str, Mapping[str, Any]]
"""Values that might mean something, see `tree_edits`, by file name."""


@dataclass(frozen=True)
class Format:
    """A file format: reads bytes as a JSON value, and writes a changed value over the old bytes."""

    read: Callable[[bytes], Any]
    write: Callable[[Any, bytes], bytes]


def _read_table(delimiter: str) -> Callable[[bytes], Any]:
    return lambda data: list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


def _write_table(delimiter: str) -> Callable[[Any, bytes], bytes]:
    def write(rows: Any, _: bytes) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter).writerows(row if isinstance(row, list) else [row] for row in rows or [])
        return text.getvalue().encode(errors="surrogatepass")

    return write


def _write_lines(rows: Any, _: bytes) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in (rows if isinstance(rows, list) else [rows])).encode()


def _header_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _write_header(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[_header_size(data) :]


FORMATS = {
    ".json": Format(json.loads, lambda value, _: json.dumps(value).encode()),
    ".jsonl": Format(lambda data: [json.loads(line) for line in data.splitlines()], _write_lines),
    ".csv": Format(_read_table(","), _write_table(",")),
    ".tsv": Format(_read_table("\t"), _write_table("\t")),
    ".safetensors": Format(lambda data: json.loads(data[8 : _header_size(data)]), _write_header),
}


def edits(folder: Path, file: str, likely: Likely) -> st.SearchStrategy[Edit]:
    """The edits of one file of a folder."""
    path = folder / file
    data, others = path.read_bytes(), sorted(other.name for other in path.parent.iterdir() if other.is_file())
    links = (f"../{OUTSIDE}/{path.name}", "/dev/zero", path.name, "nowhere")
    special = [Edit(file, action) for action in ("remove", "empty", "fifo", "directory")]
    special += [Edit(file, "swap", (), other) for other in others if other != path.name]
    special += [Edit(file, "link", (), target) for target in links]
    ways: list[st.SearchStrategy[Edit]] = [*3 * [splices(file, len(data))], st.sampled_from(special)]
    suffix = path.suffix
    if suffix in FORMATS:
        tree = FORMATS[suffix].read(data)
        ways += 3 * [tree_edits(file, tree, likely.get(file))]
    if suffix == ".safetensors":
        names = st.sampled_from([name for name in tree if name != "__metadata__"])
        filled = st.sampled_from([float("nan"), float("inf"), 0.0, 1e30])
        ways.append(st.builds(lambda name, value: Edit(file, "fill", (name,), value), names, filled))
    return st.one_of(ways)


def apply(case: Case, folder: Path) -> None:
    """Does the edits, in their order; one whose file is no longer what it needs changes nothing."""
    for edit in case:
        path = folder / edit.place
        path.parent.mkdir(parents=True, exist_ok=True)
        if edit.action in ("set", "delete", "splice", "fill"):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(_written(edit, path.suffix, path.read_bytes()))
        else:
            _ACTIONS[edit.action](path, edit.value)


def _written(edit: Edit, suffix: str, data: bytes) -> bytes:
    if edit.action == "splice":
        return edit.splice(data)
    try:
        tree = FORMATS[suffix].read(data)
    except (ValueError, RecursionError, csv.Error):
        return data  # an edit before has broken it
    if edit.action != "fill":
        return FORMATS[suffix].write(edit.tree(tree), data)
    import numpy as np

    tensor = tree.get(edit.at[0]) if isinstance(tree, dict) else None
    if not isinstance(tensor, dict) or tensor.get("dtype") != "F32":
        return data
    start, end = (_header_size(data) + offset for offset in tensor["data_offsets"])
    return data[:start] + np.full((end - start) // 4, edit.value, "<f4").tobytes() + data[end:]


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replaced(make: Callable[[Path, Any], object]) -> Callable[[Path, Any], None]:
    def action(path: Path, value: Any) -> None:
        _gone(path)
        make(path, value)

    return action


def _swap(path: Path, other: str) -> None:
    source = path.with_name(other)
    if source != path and source.is_file():
        _gone(path)
        shutil.copyfile(source, path)


_ACTIONS: dict[str, Callable[[Path, Any], None]] = {
    "remove": lambda path, _: _gone(path),
    "create": _replaced(lambda path, text: path.write_text(text, encoding="utf-8")),
    "empty": _replaced(lambda path, _: path.touch()),
    "fifo": _replaced(lambda path, _: os.mkfifo(path)),
    "directory": _replaced(lambda path, _: path.mkdir()),
    "link": _replaced(lambda path, target: path.symlink_to(target)),
    "swap": _swap,
}
