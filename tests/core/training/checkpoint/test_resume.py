"""A run that is killed and resumed is the run that was not: the same curve, the same weights, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m3plugins.training import CheckpointError
from tests.core.training.runs import Killed, Run, Trained, in_process, perform, trainer

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"train_encoder": "lora", "lora_rank": 2, "lora_dropout": 0.1},
    "frozen": {"train_encoder": "frozen"},
    "learned temperatures": {"learn_temperature": True, "head_learning_rate": 1e-2},
    "distillation starts after the kill": {"distillation_start_step": 5},
    "worker processes": {"dataloader_num_workers": 2, "max_steps": 5},
    "workers that live on": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "accumulated gradients": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "chunks": {"chunk_tokens": 60},
    "measured chunks": {"chunk_tokens": None},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 1},
    "logged between checkpoints": {"logging_steps": 3},
}
TEACHER = {"full": "moving average", "lora": "moving average"}


def run_of(case: str, checkpoint: Path, output: Path) -> Run:
    """Of 7 steps with dropout, 3 an epoch, saved at 3 and 6, which are the ends of epochs."""
    changes = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3} | CASES[case]
    return Run(checkpoint, output, changes, TEACHER.get(case))


def assert_same(found: Trained, expected: Trained) -> None:
    assert found.curve == expected.curve
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
    assert found.temperatures == expected.temperatures
    assert all(torch.equal(found.teacher[name], weight) for name, weight in expected.teacher.items())


@pytest.fixture(scope="module")
def uninterrupted(tiny_with_dropout: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return in_process(perform, run_of("full", tiny_with_dropout, tmp_path_factory.mktemp("uninterrupted")))


def checkpoints(run: Run) -> list[str]:
    return sorted(path.name for path in run.output.glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_in_a_step(tiny_with_dropout: Path, tmp_path: Path, case: str) -> None:
    """From the checkpoint at the end of the first epoch, within the second."""
    run = run_of(case, tiny_with_dropout, tmp_path / "killed")
    with pytest.raises(Killed):
        in_process(perform, run, "step 5")
    assert checkpoints(run) == ["checkpoint-3"]
    assert_same(in_process(perform, run), in_process(perform, replace(run, output=tmp_path / "uninterrupted")))


@pytest.mark.slow
def test_with_cached_states_the_resumed_run_differs_by_rounding_alone(tiny: Path, tmp_path: Path) -> None:
    """A text that is encoded again, in another batch than at first, has the same states up to the last bits."""
    run = Run(tiny, tmp_path / "killed", run_of("frozen", tiny, tmp_path).settings | {"state_cache_bytes": 1 << 20})
    with pytest.raises(Killed):
        in_process(perform, run, "step 5")
    resumed, expected = in_process(perform, run), in_process(perform, replace(run, output=tmp_path / "uninterrupted"))
    for found, logged in zip(resumed.curve, expected.curve, strict=True):
        assert found == pytest.approx(logged, rel=1e-4, abs=1e-4)
    assert all(torch.allclose(resumed.weights[name], w, atol=1e-5) for name, w in expected.weights.items())


@pytest.mark.slow
def test_killed_twice(tiny_with_dropout: Path, tmp_path: Path, uninterrupted: Trained) -> None:
    """The second time from a checkpoint at the end of an epoch, that a resumed run has written."""
    run = run_of("full", tiny_with_dropout, tmp_path)
    for step in (5, 7):
        with pytest.raises(Killed):
            in_process(perform, run, f"step {step}")
    assert checkpoints(run) == ["checkpoint-3", "checkpoint-6"]
    assert_same(in_process(perform, run), uninterrupted)


@pytest.mark.slow
def test_resumed_within_an_epoch(tiny_with_dropout: Path, tmp_path: Path) -> None:
    run = run_of("full", tiny_with_dropout, tmp_path / "killed")
    run = replace(run, settings=run.settings | {"save_steps": 4})
    with pytest.raises(Killed):
        in_process(perform, run, "step 6")
    assert checkpoints(run) == ["checkpoint-4"]
    assert_same(in_process(perform, run), in_process(perform, replace(run, output=tmp_path / "uninterrupted")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "rename model.safetensors in checkpoint-6",
        "open trainer_state.json in checkpoint-6",
        "open run.json in checkpoint-6",
        "open .manifest.json in checkpoint-6",
        "rename .manifest.json in checkpoint-6",
    ],
)
def test_killed_while_it_saves(tiny_with_dropout: Path, tmp_path: Path, uninterrupted: Trained, point: str) -> None:
    """From the checkpoint before; the one that was cut off is written anew, and nothing of it stays."""
    run = run_of("full", tiny_with_dropout, tmp_path)
    with pytest.raises(Killed):
        in_process(perform, run, point)
    assert not (tmp_path / "checkpoint-6" / "manifest.json").exists()
    assert_same(in_process(perform, run), uninterrupted)
    assert (tmp_path / "checkpoint-6" / "manifest.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-6", "checkpoint-7"]


def test_a_checkpoint_without_the_optimizers_state_is_no_start_to_resume(tiny: Path, tmp_path: Path) -> None:
    trainer(tiny, tmp_path, max_steps=1, save_strategy="steps", save_steps=1, save_only_model=True).train()
    with pytest.raises(CheckpointError, match="has no optimizer's state .*; start a new run from it as the model"):
        trainer(tiny, tmp_path, max_steps=2).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "change", [{"heads": ("dense",)}, {"train_encoder": "lora"}, {"learn_temperature": True}], ids=str
)
def test_a_run_with_other_weights_is_not_resumed(tiny: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    trainer(tiny, tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(CheckpointError, match=f"cannot be resumed: .*{next(iter(change))} "):
        trainer(tiny, tmp_path, max_steps=2, **change).train(resume_from_checkpoint=True)
