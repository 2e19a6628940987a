"""`m3 evaluate` in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from m3plugins.cli.app import run
from m3plugins.cli.evaluate import own_name
from tests.tiny import SENTENCES


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    for name, prefix in (("corpus.jsonl", "d"), ("queries.jsonl", "q")):
        rows = [json.dumps({"_id": f"{prefix}{i}", "text": text}) for i, text in enumerate(SENTENCES)]
        (tmp_path / name).write_text("\n".join(rows))
    (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(SENTENCES))))
    return tmp_path


def test_the_table_has_the_five_rows(collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(collection), "--model", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["nDCG@10", "R@100"]
    assert [line.split()[0] for line in lines[2:]] == ["dense", "sparse", "multi-vector", "D+S", "All"]


def test_json_is_one_object_on_stdout(collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(collection), "--model", str(checkpoint), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["queries"] == result["documents"] == len(SENTENCES)
    assert result["measures"]["dense"] == {"nDCG@10": 1.0, "R@100": 1.0}
    assert result["identical_ids"] == 0


def test_documents_with_the_id_of_the_query_are_left_out_and_counted(
    collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (collection / "queries.jsonl", collection / "qrels" / "test.tsv"):
        path.write_text(path.read_text().replace("q", "d"))
    told = f"m3: {len(SENTENCES)} of {len(SENTENCES)} queries found a document of their own id, which is left out"
    call = ["evaluate", str(collection), "--model", str(checkpoint), "--json"]
    for option, identical, recall in (([], len(SENTENCES), 0.0), (["--keep-identical-ids"], 0, 1.0)):
        assert run([*call, *option]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["identical_ids"] == identical
        assert json.loads(out)["measures"]["dense"]["R@100"] == recall
        assert (told in err) == bool(identical)


def test_documents_that_could_not_be_read_fail_the_evaluation_but_not_its_table(
    collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (collection / "corpus.jsonl").open("a") as file:
        file.write("\nnot json\n")
    assert run(["evaluate", str(collection), "--model", str(checkpoint), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed"] == 1
    assert f"corpus.jsonl:{len(SENTENCES) + 1}: not a line of JSON" in err


def test_a_malformed_judgement_is_a_wrong_call(
    collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (collection / "qrels" / "test.tsv").write_text("q1\td1\n")
    assert run(["evaluate", str(collection), "--model", str(checkpoint)]) == 2
    err = capsys.readouterr().err
    assert "test.tsv:1: a judgement is" in err and err.count("\n") == 1


def test_a_model_that_is_not_there_is_a_wrong_call(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["evaluate", str(collection), "--model", str(tmp_path / "empty")]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_an_unknown_precision_is_a_wrong_call(
    collection: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(collection), "--model", str(checkpoint), "--dtype", "int3"]) == 2
    assert "dtype must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["BEIR (v1.0)", "日本語", "Ünï Cöde", "a.b-c", "x" * 255, "_", "-+*?"])
def test_the_index_of_a_folder_has_a_name_that_every_engine_takes(tmp_path: Path, folder: str) -> None:
    assert re.fullmatch("[a-z][a-z0-9_]{1,200}", own_name(tmp_path / folder))


def test_the_index_of_a_folder_keeps_its_name() -> None:
    assert own_name(Path("data/scifact")) == own_name(Path("/x/scifact/")) == "evaluate_scifact"
