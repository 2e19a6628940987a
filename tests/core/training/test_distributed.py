"""The trainer in two processes: what one process with a batch of twice the size does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from m3plugins.training import M3Dataset
from m3plugins.training.checkpoint import manifest
from tests.core.training.runs import Run, Trained, examples, in_process, in_world, perform, trainer

pytestmark = pytest.mark.slow

COMMON = {"max_steps": 3, "temperature": 0.2, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "optim": "sgd"}
"""Plain gradient descent, so that weights differ by what gradients do: Adam's steps are signs at first."""

WAYS: dict[str, dict[str, Any]] = {
    "one pass": {},
    "chunks": {"chunk_tokens": 80},
    "learned temperatures": {"learn_temperature": True, "head_learning_rate": 1e-2, "chunk_tokens": 80},
    "lora": {"train_encoder": "lora", "lora_rank": 2},
    "frozen": {"train_encoder": "frozen"},
    "one head": {"heads": ("sparse",)},
    "gradient checkpointing": {"gradient_checkpointing": True, "chunk_tokens": 80},
}


def assert_close(found: Trained, expected: Trained) -> None:
    for one, other in zip(found.curve, expected.curve, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    for name, weight in expected.weights.items():
        assert torch.allclose(found.weights[name], weight, rtol=1e-4, atol=1e-5), name
    assert found.temperatures == pytest.approx(expected.temperatures, rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one_with_the_whole_batch(tiny: Path, tmp_path: Path, way: str) -> None:
    """12 queries in steps of 4: both draw the same ones."""
    settings = COMMON | WAYS[way]
    one = in_process(perform, Run(tiny, tmp_path / "one", settings | {"per_device_train_batch_size": 4}))
    two = in_world(2, perform, Run(tiny, tmp_path / "two", settings | {"per_device_train_batch_size": 2}))
    assert all(torch.equal(two[0].weights[name], weight) for name, weight in two[1].weights.items())
    assert_close(two[0], one)


def test_a_query_on_both_processes_knows_the_positives_of_both(tiny: Path, tmp_path: Path) -> None:
    settings, rows = COMMON | {"max_steps": 1}, [row | {"query": "What is it?"} for row in examples()[:4]]
    one = in_process(perform, Run(tiny, tmp_path / "one", settings | {"per_device_train_batch_size": 4}, rows=rows))
    two = in_world(2, perform, Run(tiny, tmp_path / "two", settings | {"per_device_train_batch_size": 2}, rows=rows))
    assert_close(two[0], one)


def syncs(run: Run) -> tuple[int, int]:
    """How many passes had a gradient, and after how many it was exchanged."""
    passes = []
    forward = DistributedDataParallel.forward

    def counted(model: DistributedDataParallel, *args: Any) -> Any:
        if torch.is_grad_enabled():
            passes.append(model.require_backward_grad_sync)
        return forward(model, *args)

    DistributedDataParallel.forward = counted
    perform(run)
    return len(passes), sum(passes)


def test_gradients_are_exchanged_once_a_step_however_many_chunks_there_are(tiny: Path, tmp_path: Path) -> None:
    found = in_world(2, syncs, Run(tiny, tmp_path, COMMON | {"per_device_train_batch_size": 2, "chunk_tokens": 70}))
    for passes, exchanged in found:
        assert exchanged == 3 < passes
    assert found[0][0] != found[1][0]  # processes with other numbers of chunks would wait for each other for ever


def test_processes_agree_whether_a_step_is_one_pass(tiny: Path, tmp_path: Path) -> None:
    """A query with eight negatives needs two; one with six beside it would fit."""
    rows = [
        {"query": f"{word} fox", "pos": [f"{word} dog"], "neg": [f"{word} dog {n}" for n in range(6 + number % 3)]}
        for number, word in enumerate("abcdefghijkl")
    ]
    settings = COMMON | {"negatives": 8}
    alone = trainer(tiny, tmp_path, data=M3Dataset.from_examples(rows), per_device_train_batch_size=1, **settings)
    tokens = {len(each.passages): each.passages.mask.numel() for each in alone.get_train_dataloader()}
    assert tokens.keys() == {7, 8, 9}
    settings |= {"chunk_tokens": tokens[8]}
    one = in_process(perform, Run(tiny, tmp_path / "one", settings | {"per_device_train_batch_size": 2}, rows=rows))
    two = in_world(2, perform, Run(tiny, tmp_path / "two", settings | {"per_device_train_batch_size": 1}, rows=rows))
    assert_close(two[0], one)


def test_they_save_evaluate_and_resume_as_one(tiny_with_dropout: Path, tmp_path: Path) -> None:
    """The curve of a run in two halves is that of one, with evaluation after every step."""
    settings = COMMON | {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 1,
        "per_device_train_batch_size": 2, "logging_steps": 3,
    }  # fmt: skip
    whole = in_world(2, perform, Run(tiny_with_dropout, tmp_path / "whole", settings))
    halves = Run(tiny_with_dropout, tmp_path / "halves", settings)
    in_world(2, perform, Run(halves.checkpoint, halves.output, settings | {"max_steps": 2}))
    resumed = in_world(2, perform, halves)
    manifest.verify(tmp_path / "halves" / "checkpoint-4")
    assert json.loads((tmp_path / "halves" / "checkpoint-4" / "run.json").read_text())["arguments"]["processes"] == 2
    for found, expected in zip(resumed, whole, strict=True):
        assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
    assert [entry for entry in resumed[0].curve if "eval_loss" in entry] == [
        entry for entry in whole[0].curve if "eval_loss" in entry
    ]
    (found,), (expected,) = ([e for e in run[0].curve if "loss" in e] for run in (resumed, whole))
    assert found == pytest.approx(expected, rel=1e-6)  # of three steps, two of them before the halt


def test_a_teacher_may_teach_in_one_process_alone(tiny: Path, tmp_path: Path) -> None:
    """The log has the mean of the batches with a teacher, which the second process knows nothing of."""
    settings = COMMON | {"max_steps": 1, "per_device_train_batch_size": 2}
    taught, all_taught = (
        in_world(2, perform, Run(tiny, tmp_path, settings, teacher)) for teacher in ("on the first process", None)
    )
    for found in taught:
        assert found.curve == taught[0].curve
        for name in ("loss_dense", "truncated"):
            assert found.curve[0][name] == all_taught[0].curve[0][name]
        assert found.curve[0]["loss_dense_distillation"] > 0


def test_without_cross_device_negatives_each_process_compares_its_own_passages(tiny: Path, tmp_path: Path) -> None:
    settings = COMMON | {"max_steps": 1, "per_device_train_batch_size": 2}
    (own, _), (all_passages, _) = (
        in_world(2, perform, Run(tiny, tmp_path, settings | {"cross_device_negatives": crossing}))
        for crossing in (False, True)
    )
    assert own.curve[0]["loss_dense"] < all_passages.curve[0]["loss_dense"]
