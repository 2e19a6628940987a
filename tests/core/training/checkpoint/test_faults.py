"""What goes wrong, and what the user is told of it (kills: `test_resume.py`)."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m3plugins.training import CheckpointError, DivergedError, M3Dataset
from m3plugins.training.checkpoint import manifest
from m3plugins.training.data.sources import DatasetError
from tests.core.training.runs import Run, copy_of, examples, in_process, perform, trainer, weights
from tests.tiny import SENTENCES

SAVING = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}


@pytest.fixture(scope="module")
def three_steps(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has one checkpoint."""
    output = tmp_path_factory.mktemp("three steps")
    trainer(tiny, output, **SAVING).train()
    return output


# --- the disk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "file_bytes"),
    [({}, 20_000), ({}, 80_000), ({"train_encoder": "lora"}, 80_000), ({"train_encoder": "frozen"}, 2_000)],
    ids=["in the encoder", "in the optimizer's state", "lora", "frozen"],
)
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_of_the_new_one(
    tiny: Path, tmp_path: Path, settings: dict[str, Any], file_bytes: int
) -> None:
    """No file may grow beyond a size: what the system says of a full disk comes from the same calls."""
    run = Run(tiny, tmp_path, SAVING | settings)
    in_process(perform, run)
    with pytest.raises(OSError) as error:
        in_process(perform, replace(run, settings=run.settings | {"max_steps": 6}), None, file_bytes)
    message = str(error.value)
    assert f"checkpoint {tmp_path / 'checkpoint-6'} could not be saved: " in message
    assert message.endswith(f" bytes free; the last whole checkpoint is {tmp_path / 'checkpoint-3'}")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    resumed = in_process(perform, replace(run, settings=run.settings | {"max_steps": 6}))
    assert resumed.curve[-1]["step"] == 6


# --- damaged checkpoints


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth", "run.json"]
)
def test_a_damaged_file_is_named_and_nothing_is_trained(
    tiny: Path, tmp_path: Path, three_steps: Path, name: str
) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    path = output / "checkpoint-3" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for place in (True, str(output / "checkpoint-3")):
        with pytest.raises(CheckpointError) as error:
            trainer(tiny, output, **SAVING | {"max_steps": 4}).train(resume_from_checkpoint=place)
        assert str(error.value) == (
            f"the checkpoint {output / 'checkpoint-3'} is damaged: {name} is not what was written; "
            "remove the folder to resume from an earlier one"
        )


def test_a_missing_file_is_named(tiny: Path, tmp_path: Path, three_steps: Path) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    (output / "checkpoint-3" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-3 is damaged: optimizer\.pt is missing; remove the folder"):
        trainer(tiny, output, **SAVING).train(resume_from_checkpoint=True)


def test_a_checkpoint_that_was_cut_off_is_refused_by_name_and_passed_over_otherwise(
    tiny: Path, tmp_path: Path, three_steps: Path
) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    cut_off = copy_of(output / "checkpoint-3", output / "checkpoint-4")
    (cut_off / "manifest.json").unlink()
    resumed = trainer(tiny, output, **SAVING | {"max_steps": 4})
    with pytest.raises(CheckpointError, match="was not saved to its end: it has no manifest.json; resume from an"):
        resumed.train(resume_from_checkpoint=str(cut_off))
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [1, 2, 3, 4]


def test_without_a_checkpoint_to_resume_from_it_starts_anew(tiny: Path, tmp_path: Path) -> None:
    trained = trainer(tiny, tmp_path, max_steps=1)
    trained.train(resume_from_checkpoint=True)
    assert trained.state.global_step == 1


def test_other_settings_on_resume_are_named(
    tiny: Path, tmp_path: Path, three_steps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    changed = trainer(tiny, output, **SAVING | {"max_steps": 4, "temperature": 0.05})
    with caplog.at_level(logging.WARNING, "m3plugins"):
        changed.train(resume_from_checkpoint=True)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("m3plugins")] == [
        "the resumed run has other settings than before: max_steps 3 -> 4, temperature 0.02 -> 0.05"
    ]


def test_other_data_on_resume_is_named(
    tiny: Path, tmp_path: Path, three_steps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    longer = M3Dataset.from_examples([row | {"query": row["query"] + "?"} for row in examples()])
    with caplog.at_level(logging.WARNING, "m3plugins"):
        trainer(tiny, output, data=longer, **SAVING).train(resume_from_checkpoint=True)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("m3plugins")]
    sizes = r"'12 examples, sizes [0-9a-f]{16}'"
    digests = r"train_digest '[0-9a-f]{16}' -> '[0-9a-f]{16}'"
    said_of_data = rf"the resumed run has other settings than before: train_dataset {sizes} -> {sizes}, {digests}"
    assert re.fullmatch(said_of_data, said)


def test_other_data_of_the_same_sizes_on_resume_are_named(
    tiny: Path, tmp_path: Path, three_steps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = copy_of(three_steps, tmp_path / "run")
    swapped = M3Dataset.from_examples([row | {"query": row["query"][:-1] + "#"} for row in examples()])
    with caplog.at_level(logging.WARNING, "m3plugins"):
        trainer(tiny, output, data=swapped, **SAVING).train(resume_from_checkpoint=True)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("m3plugins")]
    assert re.search(r": train_digest '[0-9a-f]{16}' -> '[0-9a-f]{16}'$", said)


def test_a_resumed_checkpoint_is_read_through_once(
    tiny: Path, tmp_path: Path, three_steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, verified, verify = copy_of(three_steps, tmp_path / "run"), [], manifest.verify
    monkeypatch.setattr(manifest, "verify", lambda folder: verified.append(folder) or verify(folder))
    trainer(tiny, output, **SAVING | {"max_steps": 4}).train(resume_from_checkpoint=True)
    assert verified == [output / "checkpoint-3"]


# --- numbers


@pytest.mark.parametrize("place", ["encoder.encoder.layer.0.output.dense.weight", "colbert_linear.bias"])
@pytest.mark.parametrize("chunk_tokens", [30, 4096], ids=["chunks", "one pass"])
def test_a_loss_that_is_no_number_stops_the_run_before_a_weight_changes(
    tiny: Path, tmp_path: Path, place: str, chunk_tokens: int
) -> None:
    diverging = trainer(tiny, tmp_path, chunk_tokens=chunk_tokens, logging_nan_inf_filter=False)
    dict(diverging.model.named_parameters())[place].data.view(-1)[0] = math.nan
    before = weights(diverging)
    with pytest.raises(DivergedError) as error:
        diverging.train()
    assert str(error.value).startswith("the loss is nan (dense ")
    assert str(error.value).endswith(
        ") at step 1; the weights are those before it. "
        "Lower learning_rate, raise temperature, or look for damaged weights; then resume"
    )
    after = weights(diverging)
    assert all(torch.equal(after[name], before[name]) or name == place for name in before)


def test_a_gradient_that_is_no_number_stops_the_run_before_a_weight_changes(tiny: Path, tmp_path: Path) -> None:
    """Where the loss is finite, as with a root of 0."""
    diverging = trainer(tiny, tmp_path)
    diverging.model.sparse_linear.weight.register_hook(lambda gradient: gradient * math.nan)
    before = weights(diverging)
    with pytest.raises(DivergedError, match="the gradient is nan at step 1; the weights are those before it"):
        diverging.train()
    after = weights(diverging)
    assert all(torch.equal(after[name], before[name]) for name in before)


# --- data (each rule: `test_dataset.py`)


def test_a_wrong_line_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"query": "a", "pos": ["b"]}), "{", json.dumps({"query": "a", "pos": []})]
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetError) as error:
        M3Dataset.from_jsonl(path)
    first, second, third = str(error.value).splitlines()
    assert first == "2 examples are wrong:"
    assert second.startswith(f"{path}:2: not a line of JSON in UTF-8: ")
    assert third == f"{path}:3: positives must hold at least one text, got none"


def test_a_positive_among_the_negatives_is_left_out_and_said(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row | {"neg": [*row["pos"], *row["neg"]]} for row in examples()]
    data = M3Dataset.from_examples(rows)
    assert caplog.messages == [
        "the examples given: 12 negatives were left out: blank, repeated or also positives of their query"
    ]
    found, expected = trainer(tiny, tmp_path / "a", data=data, max_steps=2), trainer(tiny, tmp_path / "b", max_steps=2)
    found.train()
    expected.train()
    assert [e["loss"] for e in found.state.log_history if "loss" in e] == [
        e["loss"] for e in expected.state.log_history if "loss" in e
    ]


@pytest.mark.parametrize("negatives", [0, 2])
@pytest.mark.parametrize("heads", [("dense", "sparse", "multi_vector"), ("sparse",)])
def test_one_query_alone_can_be_trained_on(tiny: Path, tmp_path: Path, negatives: int, heads: tuple[str, ...]) -> None:
    """Without a negative it has one candidate: nothing to learn, a loss of 0."""
    row = {"query": "fox?", "pos": [SENTENCES[0]], "neg": [SENTENCES[1], SENTENCES[2]][:negatives]}
    for chunk_tokens in (1, 4096):
        alone = trainer(
            tiny, tmp_path, data=M3Dataset.from_examples([row]), negatives=negatives, max_steps=2, heads=heads,
            chunk_tokens=chunk_tokens, temperature=0.5,
        )  # fmt: skip
        alone.train()
        losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
        assert all(math.isfinite(loss) for loss in losses) and len(losses) == 2
        assert (losses[0] == 0) == (negatives == 0)


def test_texts_over_the_length_are_cut_and_their_share_is_logged(tiny: Path, tmp_path: Path) -> None:
    cut, whole = [
        trainer(tiny, tmp_path, max_steps=1, negatives=1, query_max_length=length, passage_max_length=length)
        for length in (4, 64)
    ]
    cut.train()
    whole.train()
    assert cut.state.log_history[0]["truncated"] == 1.0
    assert whole.state.log_history[0]["truncated"] == 0.0
