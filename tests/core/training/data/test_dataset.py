"""Datasets: what the files hold comes through by number, what is wrong is named by file and line."""

from __future__ import annotations

import json
import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3plugins.training import DatasetError, Example
from m3plugins.training.data.dataset import M3Dataset


def row(number: int, **further: Any) -> dict[str, Any]:
    return {"query": f"query {number}", "pos": [f"positive {number}"], "neg": [f"négative {number}"], **further}


def write(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_come_in_order_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    dataset = M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", "", row(0), "  ", row(1), row(2), ""))
    assert list(dataset) == [Example.from_row(row(number), source="a") for number in range(3)]


def test_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row(0)).encode() + b"\r\n" + json.dumps(row(1)).encode())
    assert [example.query for example in M3Dataset.from_jsonl(path)] == ["query 0", "query 1"]


def test_a_folder_is_its_jsonl_files_in_order_of_name(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", row(1))
    write(tmp_path / "a.jsonl", row(0))
    write(tmp_path / "notes.txt", "not data")
    dataset = M3Dataset.from_jsonl(tmp_path)
    assert [(example.query, example.source) for example in dataset] == [("query 0", "a"), ("query 1", "b")]


def test_files_of_one_name_are_two_sources(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.jsonl", row(0))
    dataset = M3Dataset.from_jsonl(tmp_path / "x", tmp_path / "y")
    assert dataset.columns.source_names == tuple(str(tmp_path / folder / "train.jsonl") for folder in ("x", "y"))


def test_a_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[row(number, pos=["long " * 1000]) for number in range(100)])
    assert len(pickle.dumps(M3Dataset.from_jsonl(path))) < path.stat().st_size / 50


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    dataset = M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", *map(row, range(200))))
    with ThreadPoolExecutor(4) as pool:
        assert [example.query for example in pool.map(dataset.__getitem__, range(200))] == [
            f"query {number}" for number in range(200)
        ]


def test_a_dataset_pickles(tmp_path: Path) -> None:
    dataset = M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", row(0))) + M3Dataset.from_examples([row(1)])
    assert list(pickle.loads(pickle.dumps(dataset))) == list(dataset)


def test_a_change_that_keeps_size_and_time_of_the_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(0), row(1))
    dataset, before = M3Dataset.from_jsonl(path), path.stat()
    path.write_bytes(path.read_bytes().replace(b"query 1", b"query 7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert M3Dataset.from_jsonl(path).digest != dataset.digest
    assert dataset[0].query == "query 0"
    with pytest.raises(DatasetError, match="has changed since the dataset was made"):
        dataset[1]


def test_the_digest_is_of_the_examples_and_their_order(tmp_path: Path) -> None:
    in_memory = M3Dataset.from_examples([row(0), row(1)])
    assert in_memory.digest == M3Dataset.from_examples([row(0), row(1)]).digest
    assert in_memory.digest != M3Dataset.from_examples([row(1), row(0)]).digest
    first = write(tmp_path / "a.jsonl", row(0), row(1))
    assert (
        M3Dataset.from_jsonl(first).digest == M3Dataset.from_jsonl(write(tmp_path / "b.jsonl", row(0), row(1))).digest
    )


def test_a_file_that_changes_afterwards_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(0), row(1))
    dataset = M3Dataset.from_jsonl(path)
    write(path, row(7, prompt="longer "), row(8))
    with pytest.raises(DatasetError, match="has changed since the dataset was made"):
        dataset[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"query": ', "not a line of JSON in UTF-8"),
        ("[1]", "a line must hold a JSON object, got list"),
        ('{"query": "q", "pos": []}', "positives must hold at least one text"),
        ('{"query": "\\ud800", "pos": ["p"]}', "query must be valid Unicode"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", row(0), "", line)
    with pytest.raises(DatasetError, match=rf"1 example is wrong:\n.*a\.jsonl:3: {reason}"):
        M3Dataset.from_jsonl(path)


def test_the_first_ten_wrong_lines_are_named_and_all_are_counted(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.jsonl", *["{}"] * 8) for name in "ab")
    with pytest.raises(DatasetError) as caught:
        M3Dataset.from_jsonl(first, second)
    lines = str(caught.value).splitlines()
    assert lines[0] == "16 examples are wrong:"
    assert [line.split(": ")[0] for line in lines[1:-1]] == [
        *(f"{first}:{number}" for number in range(1, 9)),
        *(f"{second}:{number}" for number in (1, 2)),
    ]
    assert lines[-1] == "and 6 more"


def test_a_file_without_examples_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"at least one example, got none in .*b\.jsonl"):
        M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", row(0)), write(tmp_path / "b.jsonl", ""))


def test_a_path_with_nothing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(FileNotFoundError, match="a file or a folder of"):
            M3Dataset.from_jsonl(path)
    with pytest.raises(DatasetError, match="at least one path"):
        M3Dataset.from_jsonl()


def test_negatives_left_out_are_counted_in_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = row(0, neg=["n", "n", "positive 0", " "])
    path = write(tmp_path / "a.jsonl", bad, bad)
    with caplog.at_level(logging.WARNING):
        dataset = M3Dataset.from_jsonl(path)
        assert [example.negatives for example in dataset] == [("n",), ("n",)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 6 negatives were left out: blank, repeated or also positives of their query"
    ]


def test_rows_and_examples_come_back_from_memory() -> None:
    example = Example("q", ("p",), source="mine")
    dataset = M3Dataset.from_examples([example, row(0)], source="rows")
    assert list(dataset) == [example, Example.from_row(row(0), source="rows")]


def test_a_wrong_example_is_named_by_its_number() -> None:
    with pytest.raises(DatasetError, match=r"example 2: .*lacks query and pos.*\nexample 3: must be an Example or"):
        M3Dataset.from_examples([row(0), {}, "text"])  # type: ignore[list-item]


def test_no_example_is_refused() -> None:
    with pytest.raises(DatasetError, match="at least one example, got none in the examples given"):
        M3Dataset.from_examples([])


def test_datasets_join_and_sources_of_one_name_become_one(tmp_path: Path) -> None:
    file = M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", row(0), row(1)))
    memory = M3Dataset.from_examples([Example("q", ("p",), source="b"), Example("r", ("p",), source="a")])
    dataset = file + memory
    assert [example.query for example in dataset] == ["query 0", "query 1", "q", "r"]
    assert (dataset.columns.source_names, dataset.columns.source_of.tolist()) == (("a", "b"), [0, 0, 1, 0])


def test_rows_count_from_either_end_and_no_further() -> None:
    dataset = M3Dataset.from_examples(map(row, range(3)))
    assert dataset[-1] == dataset[2]
    for outside in (3, -4):
        with pytest.raises(IndexError, match="row must be below 3"):
            dataset[outside]


def test_sizes_are_those_of_the_examples(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(0, prompt="Q: "), row(1, pos=["日本語日本語"]))
    dataset = M3Dataset.from_jsonl(path) + M3Dataset.from_examples([row(0)])
    assert dataset.columns.sizes.dtype == np.int64
    assert dataset.columns.sizes.tolist() == [list(example.sizes) for example in dataset]


def test_has_scores_only_if_every_example_has(tmp_path: Path) -> None:
    with_scores = row(0, pos_scores=[1], neg_scores=[0])
    scored = M3Dataset.from_jsonl(write(tmp_path / "a.jsonl", with_scores))
    assert scored.columns.has_scores
    assert not (scored + M3Dataset.from_examples([row(1)])).columns.has_scores
    assert not M3Dataset.from_jsonl(write(tmp_path / "b.jsonl", row(1), with_scores)).columns.has_scores


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "foxes"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": "d1", "title": "Fox", "text": "jumps"}, {"_id": "d2", "text": "The dog sleeps."}]
    write(folder / "corpus.jsonl", *documents, {"_id": "d3", "text": "never judged"})
    write(folder / "queries.jsonl", *[{"_id": f"q{number}", "text": f"query {number}"} for number in (1, 2)])
    (folder / "qrels" / "train.tsv").write_text("q1\td1\t2\nq1\td2\t0\nq2\td2\t0\n")
    return folder


def test_a_beir_collection_becomes_examples(collection: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = M3Dataset.from_beir(collection)
    assert list(dataset) == [Example("query 1", ("Fox\njumps",), ("The dog sleeps.",), source="foxes")]
    assert "1 queries without a relevant document were left out" in caplog.text


def test_a_judged_document_that_the_corpus_lacks_is_named(collection: Path) -> None:
    (collection / "qrels" / "train.tsv").write_text("q1\td1\t1\nq1\td7\t0\n")
    with pytest.raises(DatasetError, match=r"corpus\.jsonl lacks 1 judged documents, such as 'd7'"):
        M3Dataset.from_beir(collection)


def test_a_malformed_collection_is_a_dataset_error(collection: Path) -> None:
    (collection / "qrels" / "train.tsv").write_text("q1\td1\n")
    with pytest.raises(DatasetError, match=r"train\.tsv:1: a judgement is"):
        M3Dataset.from_beir(collection)


def test_a_blank_relevant_document_is_named_by_its_query(collection: Path) -> None:
    write(collection / "corpus.jsonl", {"_id": "d1", "text": " "}, {"_id": "d2", "text": "dog"})
    with pytest.raises(DatasetError, match=r"query 'q1': positives\[0\] must not be blank"):
        M3Dataset.from_beir(collection)
