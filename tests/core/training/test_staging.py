"""Files appear together, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3plugins.training.staging import staged
from tests.core.training.checkpoint.test_folders import names


def test_staged_files_come_when_all_are_written(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "kept").write_text("as it was")
    with staged(target) as building:
        (building / "1_Pooling").mkdir()
        (building / "1_Pooling" / "config.json").write_text("new")
        assert building.parent == target  # on its disk, whatever its parent is on
        assert names(target) == [building.name, "kept"] and building.name.startswith(".")
    assert (target / "1_Pooling" / "config.json").read_text() == "new"
    assert (target / "kept").read_text() == "as it was"
    assert names(target) == ["1_Pooling", "kept"]
    assert names(tmp_path) == ["model"]


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(OSError, match="full"), staged(target) as building:
        (building / "config.json").write_text("new")
        raise OSError("the disk is full")
    assert (target / "config.json").read_text() == "old"
    assert names(target) == ["config.json"]


def test_what_a_save_that_was_cut_off_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".saving-x").mkdir()
    (tmp_path / ".saving-x" / "config.json").write_text("half")
    with staged(tmp_path) as building:
        (building / "config.json").write_text("new")
    assert names(tmp_path) == ["config.json"]
