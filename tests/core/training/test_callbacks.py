"""What is measured while a model is trained, and that measuring changes nothing."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from m3plugins import M3Encoder
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training import M3Dataset, SelfDistillationArguments, SelfDistillationTrainer
from m3plugins.training.callbacks import Drift, Probe, SparseCollapseAlarm
from tests.tiny import SENTENCES

DRIFTS = ("drift_dense", "drift_sparse", "drift_multi_vector")


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path):
    """Trains a copy of the checkpoint with some callbacks; returns the trainer."""

    def train(
        *callbacks: TrainerCallback, model: Path = checkpoint, resume: bool = False, **settings: object
    ) -> SelfDistillationTrainer:
        rows = [{"query": text[-12:], "pos": [text], "neg": [text[::-1]]} for text in SENTENCES]
        defaults = {"max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3, "chunk_tokens": 64}
        args = SelfDistillationArguments(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=4,
            negatives=1,
            query_max_length=16,
            passage_max_length=24,
            disable_tqdm=True,
            **{"save_strategy": "no", **defaults, **settings},
        )
        trainer = SelfDistillationTrainer(model, args, M3Dataset.from_examples(rows), callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


@pytest.fixture
def edited(checkpoint: Path, tmp_path: Path):
    """A copy of the checkpoint with another sparse head or with dropout."""

    def copy(*, sparse: tuple[float, float] | None = None, dropout: float = 0.0) -> Path:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "edited"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": dropout}))
        if sparse is not None:
            weight, bias = sparse
            state = {"weight": torch.full((1, config["hidden_size"]), weight), "bias": torch.tensor([bias])}
            (folder / "sparse_linear.pt").unlink()
            save_file(state, folder / "sparse_linear.safetensors")
        return folder

    return copy


def logged(trainer: SelfDistillationTrainer, name: str) -> dict[int, float]:
    """A figure by step."""
    return {logs["step"]: logs[name] for logs in trainer.state.log_history if name in logs}


def test_training_with_callbacks_is_the_training_without(run, edited) -> None:
    model = edited(dropout=0.1)
    plain = run(model=model)
    watched = run(SparseCollapseAlarm(every=1), Drift(SENTENCES, every=1), model=model)
    assert len(logged(watched, "drift_dense")) == 3
    terms = [name for name in plain.state.log_history[0] if name.startswith("loss")]
    assert len(terms) == 8
    assert all(logged(plain, name) == logged(watched, name) for name in [*terms, "grad_norm"])


def test_the_model_is_put_back_into_its_mode(run) -> None:
    class Mode(Probe):
        def measure(self, encoder: M3Encoder) -> dict[str, float]:
            return {}

        def judge(self, found, state, control) -> None:
            modes.append(trained.model.training)

    class Trained(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs) -> None:
            self.model = kwargs["model"].train()

    modes: list[bool] = []
    trained = Trained()
    run(trained, Mode(every=1))
    assert modes == [True, True, True]


def test_it_measures_at_the_first_log_every_so_many_steps_and_at_the_last(run) -> None:
    trainer = run(Drift(SENTENCES, every=2), max_steps=5)
    assert list(logged(trainer, "drift_dense")) == [1, 2, 4, 5]


@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.parametrize("logging_steps", [1, 3])
def test_a_resumed_run_measures_as_one_that_did_not_stop(run, stop: int, logging_steps: int) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            control.should_training_stop |= state.global_step == stop
            control.should_save |= control.should_training_stop

    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 100, "logging_steps": logging_steps}
    straight = run(Drift(every=2), **settings)
    shutil.rmtree(straight.args.output_dir)
    run(Drift(every=2), Stop(), **settings)
    resumed = run(Drift(every=2), resume=True, **settings)
    for name in DRIFTS:
        assert logged(resumed, name) == logged(straight, name)


def test_a_model_that_does_not_learn_has_not_moved(run) -> None:
    trainer = run(Drift(SENTENCES), learning_rate=0.0)
    assert [logged(trainer, name)[3] for name in DRIFTS] == pytest.approx([0, 0, 0], abs=1e-5)


def test_with_a_frozen_encoder_only_the_heads_move(run) -> None:
    trainer = run(Drift(SENTENCES), train_encoder="frozen", learning_rate=0.05)
    dense, sparse, multi_vector = (logged(trainer, name)[3] for name in DRIFTS)
    assert dense == pytest.approx(0, abs=1e-5)
    assert sparse > 1e-3 and multi_vector > 1e-3


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_drift_is_that_of_the_saved_model(run, mode: str, checkpoint: Path, tmp_path: Path) -> None:
    trainer = run(Drift(SENTENCES), train_encoder=mode, learning_rate=2e-3)
    trainer.save_model(str(tmp_path / "tuned"))
    then, now = (
        M3Encoder.from_pretrained(folder, document_max_length=24).encode_documents(SENTENCES)
        for folder in (checkpoint, tmp_path / "tuned")
    )
    tokens = (then.multi_vector.vectors * now.multi_vector.vectors).sum(1).mean()
    left, right = (output.sparse.to_scipy().toarray() for output in (then, now))
    assert left.any(1).all()
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = (left * right).sum(1) / np.where(norms, norms, 1)  # 0 where a text has lost all its weights
    expected = [1 - (then.dense * now.dense).sum(1).mean(), 1 - cosines.mean(), 1 - tokens]
    assert [logged(trainer, name)[3] for name in DRIFTS] == pytest.approx(expected, abs=1e-5)
    assert min(expected) > 1e-3


def test_a_sparse_head_without_weights_alarms_once(run, edited, caplog: pytest.LogCaptureFixture) -> None:
    trainer = run(SparseCollapseAlarm(every=1), model=edited(sparse=(0.0, -1.0)))
    assert logged(trainer, "sparse_empty") == {1: 1.0, 2: 1.0, 3: 1.0}
    warnings = [record.getMessage() for record in caplog.records if "collapsed" in record.message]
    assert len(warnings) == 1 and "at step 1: sparse_empty is 1.00 (at most 0.1)" in warnings[0]


def test_a_sparse_head_that_weighs_all_tokens_alike_alarms(run, edited, caplog: pytest.LogCaptureFixture) -> None:
    trainer = run(SparseCollapseAlarm(), model=edited(sparse=(0.0, 1.0)), learning_rate=0.0)
    assert logged(trainer, "sparse_entropy")[3] == pytest.approx(1)
    assert logged(trainer, "sparse_empty")[3] == 0
    assert "sparse_entropy 1.0000 (from 0.1 to 0.999)" in caplog.text


def test_the_alarm_can_end_the_training(run, edited, caplog: pytest.LogCaptureFixture) -> None:
    trainer = run(SparseCollapseAlarm(every=1, stop=True), model=edited(sparse=(0.0, -1.0)))
    assert trainer.state.global_step == 1
    assert "training stops" in caplog.text


def test_a_sound_sparse_head_raises_no_alarm(run, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    trainer = run(SparseCollapseAlarm(SENTENCES), learning_rate=0.0)
    assert "collapsed" not in caplog.text
    encoder = M3Encoder.from_pretrained(checkpoint, document_max_length=24)
    _, special = load_tokenizer(checkpoint)
    shares = []
    for text, row in zip(SENTENCES, encoder.encode_documents(SENTENCES).sparse, strict=True):
        tokens = set(encoder.tokenizer.encode(text).ids[:23]) - special.ids
        shares.append(-np.sum(p * np.log(p)) / np.log(len(tokens)) if (p := row.values / row.values.sum()).any() else 0)
    assert logged(trainer, "sparse_entropy")[3] == pytest.approx(np.mean(shares), abs=1e-5)


def test_without_texts_passages_of_the_training_data_are_measured(run) -> None:
    alarm = SparseCollapseAlarm()
    run(alarm)
    assert sorted(alarm.texts) == sorted(SENTENCES)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"texts": "one text"}, TypeError, "put it in a list"),
        ({"texts": []}, ValueError, "at least one text, got none"),
        ({"every": 0}, ValueError, "every must be at least 1 step, got 0"),
        ({"max_empty": 1.5}, ValueError, "max_empty must be from 0 to 1, got 1.5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        SparseCollapseAlarm(**arguments)


def test_a_probe_of_ones_own_needs_only_to_measure(run) -> None:
    class Entries(Probe):
        def measure(self, encoder: M3Encoder) -> dict[str, float]:
            rows: Sequence = encoder.encode_documents(self.texts, heads=("sparse",)).sparse
            return {"sparse_entries": sum(map(len, rows)) / len(rows)}

    assert logged(run(Entries(SENTENCES)), "sparse_entries")[1] > 1


def test_its_figures_reach_the_callbacks_that_report(run) -> None:
    """As W&B's, which transformers puts ahead of all that are given."""

    class Reporting(TrainerCallback):
        def __init__(self) -> None:
            self.told: list[set[str]] = []

        def on_log(self, args, state, control, logs, **kwargs) -> None:
            self.told.append(set(logs))

    reporting = Reporting()
    run(reporting, Drift(SENTENCES), max_steps=1)
    assert set(DRIFTS) <= reporting.told[0]
