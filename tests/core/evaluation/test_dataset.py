"""Reading a BEIR collection: what is right comes through, what is wrong is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3plugins import Document
from m3plugins.evaluation import Dataset, DatasetError

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "corpus.jsonl", {"_id": "d1", "title": "Fox", "text": "jumps"}, {"_id": "d2", "text": "sleeps"})
    write(tmp_path / "queries.jsonl", {"_id": "q1", "text": "who jumps?"}, {"_id": "q2", "text": "who sleeps?"})
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t2\nq1\td2\t0\n")
    return tmp_path


def write(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_split_has_its_judged_queries_only(folder: Path) -> None:
    dataset = Dataset.load(folder)
    assert dataset.queries == {"q1": "who jumps?"}
    assert dataset.qrels == {"q1": {"d1": 2, "d2": 0}}


def test_the_corpus_comes_as_documents(folder: Path) -> None:
    documents = list(Dataset.load(folder).documents())
    assert documents == [Document(id="d1", title="Fox", text="jumps"), Document(id="d2", text="sleeps")]


def test_judgements_need_no_header(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("q2\td2\t1\n")
    assert Dataset.load(folder).qrels == {"q2": {"d2": 1}}


@pytest.mark.parametrize("line", ["q1\td1", "q1\td1\tyes", "q1 d1 1", "q1\td1\t1\t1"])
def test_a_bad_judgement_is_named_by_its_line(folder: Path, line: str) -> None:
    (folder / "qrels" / "test.tsv").write_text(f"{HEADER}q1\td1\t1\n{line}\n")
    with pytest.raises(DatasetError, match=r"test\.tsv:3: a judgement is query-id, corpus-id and an integer score"):
        Dataset.load(folder)


def test_a_bad_query_is_named_by_its_line(folder: Path) -> None:
    write(folder / "queries.jsonl", {"_id": "q1", "text": "who jumps?"}, {"_id": "q2"})
    with pytest.raises(DatasetError, match=r"queries\.jsonl:2: a query needs the strings _id and text"):
        Dataset.load(folder)


def test_a_bad_document_is_named_by_its_line(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "jumps"}\n{"_id": \n')
    with pytest.raises(DatasetError, match=r"corpus\.jsonl:2: not a line of JSON"):
        list(Dataset.load(folder).documents())


def test_a_judged_query_without_text_is_refused(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text("q9\td1\t1\n")
    with pytest.raises(DatasetError, match="judges 1 queries that queries.jsonl lacks, such as 'q9'"):
        Dataset.load(folder)


def test_a_missing_split_lists_those_that_are_there(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dev\.tsv, which is not there; the splits of .* are: test"):
        Dataset.load(folder, split="dev")


def test_a_split_without_judgements_is_refused(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").write_text(HEADER)
    with pytest.raises(DatasetError, match="no judgement in it"):
        Dataset.load(folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"q1\td1\t2", "is judged for 'q1' already, with another score"),
        (b"q1\t\xff\t1", "an integer score in UTF-8"),
        (b"q1\td1\t" + b"9" * 20, "an integer score"),
        (b"q1\td1\t" + b"9" * 5000, "an integer score"),
        (b"x" * 200_000, "an integer score"),
    ],
)
def test_a_judgement_that_contradicts_or_is_no_judgement_is_named_by_its_line(
    folder: Path, line: bytes, said: str
) -> None:
    (folder / "qrels" / "test.tsv").write_bytes(HEADER.encode() + b"q1\td1\t1\nq1\td1\t1\n" + line)
    with pytest.raises(DatasetError, match=rf"test\.tsv:4: .*{said}") as refused:
        Dataset.load(folder)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_lines_of_judgements_may_end_in_any_way(folder: Path, end: bytes) -> None:
    lines = [b"\xef\xbb\xbfquery-id\tcorpus-id\tscore", b"q1\td1\t1", b"", b"q2\td2\t0"]
    (folder / "qrels" / "test.tsv").write_bytes(end.join(lines))
    assert Dataset.load(folder).qrels == {"q1": {"d1": 1}, "q2": {"d2": 0}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"_id": "q1", "text": "who sleeps?"}, "the query 'q1' is there already, with another text"),
        ({"_id": "q2", "text": "\ud800"}, "text must be valid Unicode"),
    ],
)
def test_a_query_that_contradicts_or_is_no_text_is_named_by_its_line(
    folder: Path, row: dict[str, str], said: str
) -> None:
    write(folder / "queries.jsonl", {"_id": "q1", "text": "who jumps?"}, {"_id": "q1", "text": "who jumps?"}, row)
    with pytest.raises(DatasetError, match=rf"queries\.jsonl:3: {said}"):
        Dataset.load(folder)
