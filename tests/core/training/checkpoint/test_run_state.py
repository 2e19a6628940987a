"""The settings of a resumed run are compared with those that it was begun with."""

from __future__ import annotations

import logging

import pytest

from m3plugins.training import CheckpointError
from m3plugins.training.checkpoint.run_state import check_changes


def test_changed_settings_are_named_with_both_values(caplog: pytest.LogCaptureFixture) -> None:
    before = {"learning_rate": 1e-5, "negatives": 7, "output_dir": "a", "gone": 1}
    with caplog.at_level(logging.WARNING):
        check_changes(before, {"learning_rate": 2e-5, "negatives": 7, "output_dir": "b"})
    assert caplog.messages == [
        "the resumed run has other settings than before: gone 1 -> None, learning_rate 1e-05 -> 2e-05"
    ]


def test_the_same_settings_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_changes({"negatives": 7, "output_dir": "a"}, {"negatives": 7, "output_dir": "b"})
    assert not caplog.messages


def test_a_run_with_other_weights_is_refused() -> None:
    before = {"heads": ["dense"], "train_encoder": "lora", "negatives": 7, "lora_rank": 16}
    with pytest.raises(CheckpointError, match="lora_rank 16 -> 8, negatives 7 -> 3; resume as before, or start from"):
        check_changes(before, before | {"lora_rank": 8, "negatives": 3})
    check_changes({"train_encoder": "full", "lora_rank": 16}, {"train_encoder": "full", "lora_rank": 8})
