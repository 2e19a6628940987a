"""Fuzzing of corpus files: each record is stored exactly, or named; nothing but plain text reaches the terminal."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.fixtures import save_checkpoint
from benchmarks.fuzz import children, folders
from benchmarks.fuzz.edits import Case
from benchmarks.fuzz.failures import Failure, failure, plain, refused, require
from benchmarks.fuzz.memory_engine import NAME, MemoryEngine, register
from benchmarks.fuzz.references import Record, records
from m3plugins import Document
from m3plugins.cli import app
from m3plugins.training import M3Dataset

SECONDS = 6.0
MEMORY = 1 << 30

_ROWS = [
    {"_id": "a", "text": "marker1 fox, dog", "title": "Fox", "metadata": {"year": 2020, "tags": ["x"]}},
    {"_id": "b", "text": 'marker2 "quoted"\nlines', "parent_id": "p"},
    {"_id": "c", "text": "marker3 Лиса 狐", "lang": "ru"},
]
_TABLE = '_id{0}text{0}title\na{0}"marker1 ""fox""{0} dog"{0}Fox\nb{0}"marker2\nlines"{0}\nc{0}marker3 Лиса 狐{0}\n'
_HTML = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>marker1</title><style>marker2</style></head>
<body><h1>marker3</h1><p>marker4 &amp; fox<script>marker5</script></p><pre>
marker6</pre><!-- marker7 --><table><tr><td>marker8</td></tr></table></body></html>
"""
_RST = """Title
=====

marker1 *fox*

.. include:: ../outside/a.txt

.. raw:: html
   :file: ../outside/a.txt

- marker2
"""
_MARKDOWN = "---\ntitle: marker1\n---\n# marker2 `fox`\n\nmarker3\n\n```\nmarker4\n```\n"
_TRAINING = [{"query": "marker1", "pos": ["marker2", "fox"], "neg": ["dog"]}, {"query": "marker3", "pos": ["marker4"]}]

_FILES = {
    "jsonl/corpus.jsonl": "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in _ROWS),
    "beir/corpus.jsonl": "".join(f"{json.dumps(row)}\n" for row in _ROWS),
    "csv/docs.csv": _TABLE.format(","),
    "tsv/docs.tsv": _TABLE.format("\t"),
    "txt/a.txt": "marker1 fox\nmarker2\n",
    "texts/a.txt": "marker1 fox\nmarker2\n",
    "texts/b.md": _MARKDOWN,
    "texts/c.html": _HTML,
    "texts/d.rst": _RST,
    "training/train.jsonl": "".join(f"{json.dumps(row)}\n" for row in _TRAINING),
}
_FOLDERS = ("beir", "texts")
"""Inputs that are indexed as a folder, not by the name of a file."""


@dataclass
class _Ran:
    """The outcome of `m3 index --json`; `documents` are those in the index afterwards."""

    code: int
    out: str
    err: str
    documents: list[Document] = field(default_factory=list)


class Corpora:
    """Edits of small files of every kind that `m3 index` and `M3Dataset` read.

    Args:
        folder: An empty folder to work in.
    """

    name = "corpora"

    def __init__(self, folder: Path) -> None:
        self._base, self._work, self._model = folder / "base", folder / "work", folder / "model"
        for name, text in _FILES.items():
            for path in (self._base / name, self._base / folders.OUTSIDE / Path(name).name):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        units = sorted({name.partition("/")[0] for name in _FILES})
        self.cases = st.one_of([self._cases(unit) for unit in units])
        save_checkpoint(self._model, max_length=256)
        register(folder / "engines")
        sys.path.append(str(folder / "engines"))
        shutil.copytree(self._base, self._work)
        for unit in ("texts", "training"):
            self._tried(unit)  # imports what each child would import again

    def _cases(self, unit: str) -> st.SearchStrategy[Case]:
        kinds = [folders.edits(self._base, name, {}) for name in _FILES if name.startswith(f"{unit}/")]
        return st.lists(st.one_of(kinds), min_size=1, max_size=3).map(tuple)

    def check(self, case: Case) -> str | None:
        """Indexes the files in a child process."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._base, self._work)
        folders.apply(case, self._work)
        unit = case[0].place.partition("/")[0]
        readable = [self._work, self._model, Path(sys.path[-1])]
        found = children.run(lambda: self._tried(unit), seconds=SECONDS, memory=MEMORY, readable=readable)
        if found is not None:
            raise failure(found.kind, found.detail)
        return None

    def _tried(self, unit: str) -> Failure | None:
        try:
            self._train() if unit == "training" else self._index(unit)
        except Failure as found:
            return Failure(found.kind, found.detail)  # of a type that pickles
        return None

    def _index(self, unit: str) -> None:
        folder = self._work / unit
        path = folder if unit in _FOLDERS else next(self._work / name for name in _FILES if name.startswith(f"{unit}/"))
        MemoryEngine.made = None
        ran = _run(path, self._model)
        _check_said(ran, path)
        if ran.code == 2:
            require(not ran.documents, "documents of a call that is refused", ran.documents)
            return
        report = _object(ran.out)
        require(len(ran.documents) == report["documents"] == report["written"], "a wrong count", report)
        require(ran.code == bool(report["failed"]), "a code that is not what happened", (ran.code, report))
        _check_records(_expected(unit, path), ran.documents, {item["place"] for item in report["failed"]})

    def _train(self) -> None:
        path = self._work / "training" / "train.jsonl"
        try:
            examples = list(M3Dataset.from_jsonl(path))
        except Exception as error:
            refused(error, [str(path)], (ValueError, OSError), lines=11)
            require(all(plain(line) for line in str(error).split("\n")), "an error that is not printable", repr(error))
            return
        rows = [json.loads(line.decode("utf-8-sig")) for line in path.read_bytes().split(b"\n") if line.strip()]
        require(len(examples) == len(rows), "examples that are not the file's lines", (examples, rows))
        for example, row in zip(examples, rows, strict=True):
            require(example.query == row["query"] and list(example.positives) == row["pos"], "another example", row)


def _run(path: Path, model: Path) -> _Ran:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = app.run(["index", str(path), "--engine", NAME, "--model", str(model), "--json"])
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return _Ran(code, *said, list(MemoryEngine.made.scan()) if MemoryEngine.made else [])


def _check_said(ran: _Ran, path: Path) -> None:
    require(ran.code in (0, 1, 2), "another exit code", ran.code)
    for line in (ran.out + ran.err).split("\n"):
        require(
            line.isprintable() if line.startswith("{") else plain(line),
            "what is not plain reaches the terminal",
            repr(line),
        )
    lines = ran.err.splitlines()
    undocumented = [line for line in lines if re.match(r"m3: \w*(Error|Exception|Exit)\b", line)]
    require(not undocumented, f"an undocumented error ({_type(undocumented)})", undocumented)
    if ran.code:
        named = any(str(path) in line for line in lines)
        require(named, "an error that names nothing", lines)
    require(ran.out or len(lines) == 1, "an error that is too long", lines)


def _type(lines: Sequence[str]) -> str:
    return lines[0].split(":")[1].strip() if lines else ""


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise failure("--json prints no JSON", text) from error


def _expected(unit: str, path: Path) -> list[Record]:
    if unit != "texts":
        file = path / "corpus.jsonl" if path.is_dir() else path
        return records(file, str(file), file.name)
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.is_symlink())  # links are skipped
    return [record for file in files for record in records(file, str(file), file.name)]


def _check_records(expected: Sequence[Record], documents: Sequence[Document], failed: set[str]) -> None:
    stored = {document.id: document for document in documents}
    for record in expected:
        if record.places & failed or record.id in failed:
            continue
        require(record.id is not None, "a record that is none is not named", record)
        require(record.id in stored, "a record is lost", record)
        document = stored[record.id or ""]
        require(record.text in (None, document.text), "another text", (record, document.text))
        lost = {word for word in record.words if word not in f"{document.title} {document.text}"}
        require(not lost, "words are lost", (lost, document))
    known = {record.id for record in expected}
    swallowed = any(record.id is None and len(record.places) > 1 for record in expected)
    require(swallowed or stored.keys() <= known, "a document that is in no file", stored.keys() - known)
