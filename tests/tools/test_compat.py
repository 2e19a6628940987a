"""The compatibility matrix: which rows a name means, and which results are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.compat import __main__ as compat
from benchmarks.compat.rows import SERVER_8, SERVER_9, WITHOUT_TRAINING, Row, matrix, named


def names(*asked: str) -> list[str]:
    return [row.name for row in named(asked)]


def test_the_whole_name_of_a_row_is_that_row():
    rows = [row for row in matrix() if row.name not in ("oldest", "newest")]
    assert named([row.name for row in rows]) == rows


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_an_end_is_its_rows_but_those_by_name_only(end: str):
    assert names(end) == [end, f"{end}, training"]


def test_a_host_is_all_its_rows():
    assert names("pymilvus") == ["pymilvus==2.6.10", "pymilvus==2.6.17", "pymilvus==3.0.2"]


@pytest.mark.parametrize(
    ("name", "row", "server"),
    [
        ("elasticsearch==8.19.1", "elasticsearch==8.19.1", SERVER_8),
        ("elasticsearch==8.19.1, server 9", "elasticsearch==8.19.1, server 9", SERVER_9),
        ("elasticsearch==9.5.0", "elasticsearch==9.5.0, server 9", SERVER_9),
    ],
)
def test_a_client_outside_the_matrix_gets_the_server_of_its_major_version_or_the_one_named(
    name: str, row: str, server: str
):
    (found,) = named([name])
    assert (found.name, found.server) == (row, server)
    assert found.requirements == (name.split(",")[0],)


@pytest.mark.parametrize(
    ("version", "trains"), [("4.53.0", False), ("5.9.0", False), ("5.10.1", True), ("5.24.*", True)]
)
def test_a_transformers_that_training_does_not_take_comes_without_it(version: str, trains: bool):
    (found,) = named([f"transformers=={version}"])
    assert found.requirements[0] == f"transformers=={version}"
    assert ("tests/core/training" in found.paths, found.projects == (WITHOUT_TRAINING,)) == (trains, not trains)


def test_another_host_outside_the_matrix_is_like_its_last_row():
    (found,), last = named(["langchain-core==1.7.1"]), named(["langchain-core"])[-1]
    assert found.requirements == ("langchain-core==1.7.1", *last.requirements[1:])
    assert (found.paths, found.projects, found.server) == (last.paths, last.projects, last.server)


@pytest.mark.parametrize("name", ["redis", "redis==5", "pymilvus==3.0.1, server 9", "elasticsearch==9.5.1, server 8"])
def test_what_is_no_row_is_refused(name: str):
    with pytest.raises(SystemExit, match="compat: no row"):
        named([name])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The commits of the rows that were run: one row, which passes, and a folder of its own for what is kept."""
    made: list[str] = []

    def run(row: Row, commit: str, arguments: object) -> compat.Result:
        made.append(commit)
        return compat.Result(commit, {}, 1, 0, [], 1)

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for name, value in {"run": run, "folder": lambda row: tmp_path, "ROOT": tmp_path}.items():
        monkeypatch.setattr(compat, name, value)
    monkeypatch.setattr(compat, "matrix", lambda: [Row("only", ())])
    monkeypatch.setattr(sys, "argv", ["compat"])
    return made


def reports(folder: Path) -> list[Path]:
    return list((folder / "benchmarks" / "results").iterdir())


def test_a_result_of_the_same_commit_is_not_made_anew(runs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for commit in ("abc", "abc", "def"):
        monkeypatch.setattr(compat, "head", lambda commit=commit: commit)
        assert compat.main() == 0
    assert runs == ["abc", "def"]
    assert len(reports(tmp_path)) == 1


def test_files_that_differ_from_the_commit_leave_no_result_and_no_report(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(compat, "head", lambda: "abc-dirty")
    assert [compat.main(), compat.main()] == [0, 0]
    assert runs == ["abc-dirty", "abc-dirty"]
    assert not reports(tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert "files differ from the commit" in capsys.readouterr().err
