"""What `m3 index` reads: every row is a document or is rejected by its place."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins import Document, loaders
from m3plugins.cli import tables
from m3plugins.cli.errors import CallError
from m3plugins.cli.inputs import source
from m3plugins.indexing.corpus import Rejected

REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def read(path: Path, *, follow_symlinks: bool = False) -> list[Document | Rejected]:
    found = source(path, follow_symlinks=follow_symlinks)
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
    assert found.skipped == {".png": 2, ".pdf": 1, "without ending": 1, ".jsonl": 1, "symbolic link": 1}
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
    found = read(tmp_path, follow_symlinks=True)
    assert [item.id for item in found if isinstance(item, Document)] == ["a.txt", "z.md"]
    rejected = {Path(item.place).name: item.reason for item in found if isinstance(item, Rejected)}
    assert rejected.keys() == {"binary.txt", "gone.md", "loop.txt", "pipe.txt"} and len(found) == 6
    assert "not readable as UTF-8 text" in rejected["binary.txt"]
    assert "No such file" in rejected["gone.md"] and "symbolic links" in rejected["loop.txt"]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with links to a secret file, to a folder that holds one, to itself, and to a device."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "sub").mkdir(parents=True)
    fill(outside, "secret.txt")
    fill(folder, "a.txt", "sub/b.txt")
    (folder / "notes.txt").symlink_to(outside / "secret.txt")
    (folder / "all").symlink_to(outside, target_is_directory=True)
    (folder / "sub" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "alias").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "zero.txt").symlink_to("/dev/zero")
    return folder


def test_links_in_a_folder_are_not_followed_and_counted(linked: Path) -> None:
    assert [item.id for item in read(linked) if isinstance(item, Document)] == ["a.txt", "sub/b.txt"]
    assert source(linked).skipped == {"symbolic link": 5}


def test_links_are_followed_on_request_and_no_folder_is_read_twice(linked: Path) -> None:
    *found, device = read(linked, follow_symlinks=True)
    ids = [item.id for item in found if isinstance(item, Document)]
    assert ids == ["a.txt", "all/secret.txt", "notes.txt", "sub/b.txt"] and len(found) == len(ids)
    assert isinstance(device, Rejected) and "not a regular file" in device.reason


def test_a_corpus_that_is_a_link_is_read_on_request(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"_id": "a", "text": "t"}')
    (linked / "corpus.jsonl").symlink_to(tmp_path / "rows.jsonl")
    with pytest.raises(CallError, match="is a symbolic link; say --follow-symlinks"):
        source(linked)
    assert read(linked, follow_symlinks=True) == [Document(id="a", text="t")]


def test_a_folder_of_links_alone_says_how_to_follow_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path.parent)
    with pytest.raises(CallError, match="no text files .* symbolic links are followed by --follow-symlinks"):
        source(tmp_path)


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.csv", "pipe.txt"])
def test_a_pipe_is_a_wrong_call_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CallError, match="is a pipe or a device"):
        source(tmp_path / name)


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


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize(
    "rows",
    ['2,"open\n3,c\n4,d', '2,"open\n3,c\n4,"d"\n5,e', '2,"He said "hi"\nand left, he', '2,"open\n\n"3","c"\n4,d'],
)
def test_a_missing_quote_is_told_by_its_line_and_nothing_after_it_is_taken_for_a_row(
    tmp_path: Path, name: str, rows: str
) -> None:
    path, delimiter = tmp_path / name, "\t" if name.endswith("tsv") else ","
    path.write_text(f"\ufeffid,text\n1,a\n{rows}\n".replace(",", delimiter), encoding="utf-8")
    good, bad = read(path)
    assert good == Document(id="1", text="a") and isinstance(bad, Rejected)
    assert bad.place == f"{path}:3"
    assert "nothing from line 3 on is read" in bad.reason and "close each quote" in bad.reason


def test_a_misplaced_pair_of_quotes_fails_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('id\ttext\n1\t"Hello" she said\n2\t"two\n lines" more\n3\t5" wide\n')
    one, two, good = read(path)
    assert isinstance(one, Rejected) and "no line from 2 to 2 is read" in one.reason
    assert isinstance(two, Rejected) and "no line from 3 to 4 is read" in two.reason
    assert good == Document(id="3", text='5" wide')


def test_a_cell_that_is_too_long_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'id,text\n1,"{"x" * 200}\n2,not a row\n"\n3,c\n')
    monkeypatch.setattr(tables, "_CELL_LIMIT", 100)
    (bad,) = read(path)
    csv.field_size_limit(1 << 17)
    assert isinstance(bad, Rejected) and "field larger than" in bad.reason and "nothing from line 2 on" in bad.reason


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_lines_may_end_in_any_way_and_the_last_one_in_none(tmp_path: Path, end: str, last: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(f"id,text{end}1,a{end}2,b{last and end}".encode())
    assert read(path) == [Document(id="1", text="a"), Document(id="2", text="b")]


CELLS = st.text(st.sampled_from('ab,"\n\r\t é'), max_size=8)


@REUSED
@given(st.lists(st.tuples(CELLS.filter(bool), CELLS), max_size=6, unique_by=lambda row: row[0]))
def test_what_csv_writes_is_read_unchanged(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("id", "text"), *rows])
    assert read(path) == [Document(id=i, text=text) for i, text in rows]


@REUSED
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([*'1,"\n\r\t;aé\0', "\r\n"]), max_size=30).map("".join).map(str.encode)
)
def test_whatever_a_table_holds_its_lines_are_read_or_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,text\n" + data)
    items = list(source(path).read())
    places = [int(item.place.rpartition(":")[2]) for item in items if isinstance(item, Rejected)]
    assert places == sorted(set(places)) and all(place > 1 for place in places)
    if b'"' not in data:
        assert len(items) == sum(bool(line) for line in re.split(rb"\r\n|\r|\n", data))


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
