"""What `m3 index` reads: every row is a document or is rejected by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3plugins import Document
from m3plugins.cli.errors import CallError
from m3plugins.cli.inputs import source
from m3plugins.retrieval.corpus import Rejected


def read(path: Path) -> list[Document | Rejected]:
    found = source(path)
    rows = list(found.read())
    assert found.count() == len(rows)
    return rows


def test_a_folder_with_a_corpus_is_read_as_beir(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "t"}\n\n{"_id": "b", "text": "t"}')
    (tmp_path / "notes.txt").write_text("not a document")
    assert read(tmp_path) == [Document(id="a", text="t"), Document(id="b", text="t")]


def test_a_folder_of_texts_is_read_below_by_relative_path_without_the_hidden(tmp_path: Path) -> None:
    for name in ("b.md", "sub/a.txt", ".git/c.txt", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    assert read(tmp_path) == [
        Document(id="b.md", text="text of b.md"),
        Document(id="sub/a.txt", text="text of sub/a.txt"),
    ]


def test_a_text_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    (rejected,) = read(tmp_path)
    assert isinstance(rejected, Rejected) and rejected.place.endswith("a.txt") and "UTF-8" in rejected.reason


def test_csv_columns_are_fields_and_the_rest_metadata(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,title,text,lang,year\n1,T,"two\nlines, one cell",en,\n2,,t,de,2020\n')
    assert read(path) == [
        Document(id="1", title="T", text="two\nlines, one cell", metadata={"lang": "en"}),
        Document(id="2", text="t", metadata={"lang": "de", "year": "2020"}),
    ]


def test_a_bad_csv_row_is_rejected_by_its_line_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,text\n1,"a\nb"\n2,b,c\n3\n,d\n4,\xff\n5,e\n')
    first, wide, narrow, nameless, bytes_, last = read(path)
    assert isinstance(first, Document) and isinstance(last, Document)
    rejected = [row for row in (wide, narrow, nameless, bytes_) if isinstance(row, Rejected)]
    assert [row.place.rsplit(":")[-1] for row in rejected] == ["4", "5", "6", "7"]
    assert "header's 2 cells, this one has 3" in rejected[0].reason


def test_a_cell_longer_than_csvs_own_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("id\ttext\n1\t" + "word " * 50_000 + "\n")
    assert isinstance(read(path)[0], Document)


@pytest.mark.parametrize("header", ["", "id,body", "name,text", "id,text,text"])
def test_a_csv_whose_header_does_not_name_id_and_text_once_is_a_wrong_call(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n1,2\n")
    with pytest.raises(CallError, match="must name its columns"):
        source(path)


@pytest.mark.parametrize(("name", "reason"), [("none.jsonl", "no file or folder"), ("", "no text files")])
def test_nothing_to_read_is_a_wrong_call(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        source(tmp_path / name)


def test_a_file_of_an_unknown_kind_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").touch()
    with pytest.raises(CallError, match=r"must be a BEIR folder.*\.jsonl"):
        source(tmp_path / "a.pdf")
