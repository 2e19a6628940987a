"""What `m3 index` reads: every row is a document or is rejected by its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from m3plugins import Document, loaders
from m3plugins.cli.errors import CallError
from m3plugins.cli.inputs import source
from m3plugins.retrieval.corpus import Rejected


def read(path: Path) -> list[Document | Rejected]:
    found = source(path)
    rows = list(found.read())
    assert found.count() == len(rows)
    return rows


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def test_a_folder_with_a_corpus_is_read_as_beir(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "t"}\n\n{"_id": "b", "text": "t"}')
    (tmp_path / "notes.txt").write_text("not a document")
    assert read(tmp_path) == [Document(id="a", text="t"), Document(id="b", text="t")]


def test_a_folder_of_texts_is_read_below_by_relative_path_without_the_hidden(tmp_path: Path) -> None:
    fill(tmp_path, "b.MD", "sub/a.txt", ".git/c.txt", ".d.txt", "image.png")
    here = {"source": str(tmp_path)}
    assert read(tmp_path) == [
        Document(id="b.MD", text="text of b.MD", metadata={"path": "b.MD", "folder": ".", **here}),
        Document(id="sub/a.txt", text="text of sub/a.txt", metadata={"path": "sub/a.txt", "folder": "sub", **here}),
    ]


def test_a_title_is_the_documents_and_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Foxes\n\ntext")
    (found,) = read(tmp_path)
    assert isinstance(found, Document)
    assert (found.title, found.metadata["title"], found.text) == ("Foxes", "Foxes", "# Foxes\n\ntext")
    assert [heading.text for heading in found.headings] == ["Foxes"]


def test_what_is_skipped_is_counted_by_ending(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.png", "c/d.PNG", "e.pdf", "Makefile", ".hidden", "f.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = source(tmp_path)
    assert found.skipped == {".png": 2, ".pdf": 1, "without ending": 1, ".jsonl": 1, "linked folder": 1}
    assert [document.id for document in found.read() if isinstance(document, Document)] == ["a.txt"]


def test_without_the_extra_its_files_are_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "installed", lambda suffix: suffix != ".html")
    fill(tmp_path, "a.txt", "b.html", "c.html")
    found = source(tmp_path)
    assert found.wanting == found.skipped == {".html": 2}
    with pytest.raises(CallError, match=r'b\.html needs .*; pip install "m3plugins\[loaders\]"'):
        source(tmp_path / "b.html")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CallError, match=r'no text files .*; 2 \.html need pip install "m3plugins\[loaders\]"'):
        source(tmp_path)


def test_what_cannot_be_read_is_rejected_once_and_the_rest_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "z.md")
    (tmp_path / "binary.txt").write_bytes(b"PK\x03\x04\x00\xff")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    found = read(tmp_path)
    assert [item.id for item in found if isinstance(item, Document)] == ["a.txt", "z.md"]
    rejected = {Path(item.place).name: item.reason for item in found if isinstance(item, Rejected)}
    assert rejected.keys() == {"binary.txt", "gone.md", "loop.txt", "pipe.txt"} and len(found) == 6
    assert "not readable as UTF-8 text" in rejected["binary.txt"]
    assert "No such file" in rejected["gone.md"] and "symbolic links" in rejected["loop.txt"]


def test_a_name_that_is_no_unicode_is_rejected(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    (rejected,) = read(tmp_path)
    assert isinstance(rejected, Rejected) and "id must be valid Unicode" in rejected.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_is_rejected(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "shut/b.txt")
    (tmp_path / "shut").chmod(0)
    found = read(tmp_path)
    (tmp_path / "shut").chmod(0o700)
    (rejected,) = [item for item in found if isinstance(item, Rejected)]
    assert len(found) == 2 and rejected.place.endswith("shut") and "cannot be read: Permission" in rejected.reason


def test_of_one_id_twice_the_second_is_rejected_by_both_places(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "1"}\n{"_id": "b", "text": "2"}\n{"id": "a", "text": "3"}'
    )
    (tmp_path / "rows.csv").write_text("id,text\na,1\na,2\n")
    first, _, twice = read(tmp_path)
    assert isinstance(first, Document) and first.text == "1" and isinstance(twice, Rejected)
    assert twice.place.endswith("corpus.jsonl:3")
    assert "the id 'a' is at" in twice.reason and "corpus.jsonl:1 already" in twice.reason
    _, twice = read(tmp_path / "rows.csv")
    assert isinstance(twice, Rejected) and twice.place.endswith(":3") and "rows.csv:2 already" in twice.reason


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


def test_an_open_quote_is_told_by_the_line_where_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffid,text\n1,a\n2,"open\n3,c\n4,d\n', encoding="utf-8")
    good, bad = read(path)
    assert good == Document(id="1", text="a") and isinstance(bad, Rejected)
    assert bad.place.endswith("rows.csv:3") and "close each quote" in bad.reason


def test_a_cell_longer_than_csvs_own_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("id\ttext\n1\t" + "word " * 50_000 + "\n")
    assert isinstance(read(path)[0], Document)


@pytest.mark.parametrize("header", ["", "id,body", "name,text", "id,text,text", 'id,"text'])
def test_a_csv_whose_header_does_not_name_id_and_text_once_is_a_wrong_call(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n1,2\n")
    with pytest.raises(CallError, match="must name its columns|not CSV"):
        source(path)


@pytest.mark.parametrize(("name", "reason"), [("none.jsonl", "no file or folder"), ("", "no text files")])
def test_nothing_to_read_is_a_wrong_call(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        source(tmp_path / name)


def test_a_file_of_an_unknown_kind_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").touch()
    with pytest.raises(CallError, match=r"must be a BEIR folder.*\.jsonl"):
        source(tmp_path / "a.pdf")
