"""A checkpoint is whole or is not used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from m3plugins.training import CheckpointError
from m3plugins.training.checkpoint import folders, manifest


def checkpoint(output: Path, step: int, *, sealed: bool = True) -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    if sealed:
        manifest.seal(folder)
    return folder


def names(output: Path) -> list[str]:
    return sorted(path.name for path in output.iterdir())


def test_what_was_sealed_verifies(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    manifest.verify(folder)
    stated = json.loads((folder / "manifest.json").read_text())
    assert stated["format"] == 1
    assert set(stated["files"]) == {"model.safetensors", "1_Pooling/config.json"}
    assert stated["files"]["model.safetensors"]["bytes"] == 700


def test_one_flipped_bit_is_found_and_its_file_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[350] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        manifest.verify(folder)
    assert str(error.value) == (
        f"the checkpoint {folder} is damaged: model.safetensors is not what was written; "
        "remove the folder to resume from an earlier one"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError) as error:
        manifest.verify(folder)
    assert str(error.value) == (
        f"the checkpoint {folder} is damaged: 1_Pooling/config.json is missing; "
        "remove the folder to resume from an earlier one"
    )


def test_a_checkpoint_without_a_manifest_was_not_saved_to_its_end(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1, sealed=False)
    with pytest.raises(CheckpointError) as error:
        manifest.verify(folder)
    assert str(error.value) == (
        f"{folder} was not saved to its end: it has no manifest.json; resume from an earlier checkpoint"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"files": {"model.safetensors": {}}}', "\xff"])
def test_a_damaged_manifest_is_a_damaged_checkpoint(tmp_path: Path, content: str) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError) as error:
        manifest.verify(folder)
    assert str(error.value) == (
        f"the checkpoint {folder} is damaged: manifest.json is not what was written; "
        "remove the folder to resume from an earlier one"
    )


def test_the_newest_is_the_one_sealed_last_whatever_an_older_run_left(tmp_path: Path) -> None:
    """Whatever time a copy of the folder gave its files."""
    for seconds, step in enumerate((500, 2, 9, 10)):
        os.utime(checkpoint(tmp_path, step) / "manifest.json", (9 - seconds, 9 - seconds))
    checkpoint(tmp_path, 11, sealed=False)
    (tmp_path / "checkpoint-best").mkdir()
    assert folders.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    folders.prune(tmp_path, 1, best=None)
    assert folders.last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_without_a_checkpoint_there_is_no_last_one(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1, sealed=False)
    assert folders.last_checkpoint(tmp_path) is None
    assert folders.last_checkpoint(tmp_path / "not there") is None


def test_a_damaged_last_checkpoint_is_refused_rather_than_passed_over(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1)
    (checkpoint(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint-2 is damaged: model\.safetensors is not what was written"):
        folders.last_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (2, None, [3, 4]),
        (1, None, [4]),
        (2, 1, [1, 4]),
        (1, 1, [1, 4]),
        (3, 1, [1, 3, 4]),
        (9, None, [1, 2, 3, 4]),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path, limit: int, best: int | None, left: list[int]) -> None:
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    folders.prune(tmp_path, limit, best=best and str(tmp_path / f"checkpoint-{best}"))
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left]


def test_pruning_keeps_a_whole_checkpoint_where_a_later_one_was_cut_off(tmp_path: Path) -> None:
    """As after a resume with other `save_steps`: the only one to resume from must stay."""
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 3, sealed=False)
    folders.prune(tmp_path, 1, best=None)
    assert folders.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_pruning_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "runs").mkdir()
    for step in (1, 2):
        checkpoint(tmp_path, step)
    folders.prune(tmp_path, 1, best=None)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-notes", "runs"]


def test_what_a_kill_leaves_of_a_discarded_checkpoint_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    manifest.seal(folder)
    monkeypatch.setattr(folders.shutil, "rmtree", lambda *args, **kwargs: None)
    folders.discard(folder)
    assert folders.newest(tmp_path) is None
