"""The settings of a run: M3's defaults, what is refused, and what a checkpoint keeps of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from m3plugins.training import M3Dataset, PerHead, SelfDistillationArguments, StoredScores
from tests.core.training.runs import examples, trainer


def test_the_defaults_are_the_papers(tmp_path: Path) -> None:
    options = SelfDistillationArguments(output_dir=str(tmp_path)).loss_options((0, 1, 2, 3))
    assert (options.temperature, options.teacher_weight, options.in_batch_negatives) == (0.02, 0.0, True)
    assert options.score_weights == PerHead(sparse=0.3)
    assert options.loss_weights == options.distillation_weights == PerHead(sparse=0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"heads": ()}, "heads must be one or more of dense, sparse, multi_vector, got ()"),
        ({"train_encoder": "half"}, "train_encoder must be one of full, lora, frozen, got 'half'"),
        (
            {"train_encoder": "frozen", "heads": ("dense",)},
            'nothing to train: the dense head of a frozen encoder has no weights; use train_encoder="lora"',
        ),
        ({"query_max_length": 2}, "query_max_length must be at least 3, got 2"),
        ({"passage_max_length": 0}, "passage_max_length must be at least 3, got 0"),
        ({"negatives": -1}, "negatives must be at least 0, got -1"),
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"chunk_tokens": 0}, "chunk_tokens must be at least 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"distillation_start_step": -1}, "distillation_start_step must be at least 0, got -1"),
        ({"teacher_weight": -0.5}, "teacher_weight must be at least 0, got -0.5"),
        (
            {"state_cache_bytes": 1},
            "state_cache_bytes needs train_encoder=\"frozen\", got 'full': its states change",
        ),
        (
            {"auto_find_batch_size": True},
            "auto_find_batch_size is not supported, the batch size changes the task; leave chunk_tokens out instead",
        ),
        (
            {"in_batch_negatives": False, "negatives": 0},
            "in_batch_negatives=False needs negatives of at least 1: a query would have its positive alone",
        ),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported, got 0.1; leave it out"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha is not supported, got 5; leave it out"),
        ({"learning_rate": -1}, "learning_rate must be a finite number >= 0, got -1"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number >= 0, got nan"),
        ({"temperature_learning_rate": math.inf}, "temperature_learning_rate must be a finite number >= 0, got inf"),
        ({"head_learning_rate": math.nan}, "head_learning_rate must be a finite number >= 0, got nan"),
        ({"head_learning_rate": -1}, "head_learning_rate must be a finite number >= 0, got -1"),
        (
            {"head_learning_rate": {"multi_vector": 1e-3, "sparse": math.inf}},
            "head_learning_rate of sparse must be a finite number >= 0, got inf",
        ),
        ({"teacher_weight": math.nan}, "teacher_weight must be at least 0, got nan"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        (
            {"head_learning_rate": {"dense": 1e-3}},
            "head_learning_rate must be of heads with weights of their own, sparse, multi_vector, got ['dense']",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_out_of_range_is_refused(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        SelfDistillationArguments(output_dir=str(tmp_path), **setting)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("width", "settings", "expected"),
    [
        (1024, {}, {"encoder": 1e-5, "sparse_linear": 1e-5, "colbert_linear": 1e-5}),
        (384, {}, {"encoder": 1e-5, "sparse_linear": 5e-4, "colbert_linear": 1e-4}),
        (384, {"learning_rate": 1e-4}, {"encoder": 1e-4, "sparse_linear": 1e-4, "colbert_linear": 1e-4}),
        (384, {"head_learning_rate": 0.5}, {"encoder": 1e-5, "sparse_linear": 0.5, "colbert_linear": 0.5}),
        (
            384,
            {"head_learning_rate": {"sparse": 0.5}},
            {"encoder": 1e-5, "sparse_linear": 0.5, "colbert_linear": 1e-4},
        ),
    ],
    ids=str,
)
def test_learning_rates_are_those_given_or_of_the_models_size(
    tmp_path: Path, width: int, settings: dict[str, Any], expected: dict[str, float]
) -> None:
    arguments = SelfDistillationArguments(output_dir=str(tmp_path), **settings)
    assert {part: arguments.rate_of(f"{part}.weight", width) for part in expected} == expected


def test_bfloat16_needs_no_accelerator(tiny: Path, tmp_path: Path) -> None:
    """Transformers refuses it on a machine without one, unless told `use_cpu`."""
    run = trainer(tiny, tmp_path, bf16=True, use_cpu=False, max_steps=1)
    run.train()
    assert run.args.bf16 and run.state.global_step == 1


def test_an_unknown_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="colbert"):
        SelfDistillationArguments(output_dir=str(tmp_path), heads=("dense", "colbert"))


def test_weights_may_be_given_as_a_mapping(tmp_path: Path) -> None:
    arguments = SelfDistillationArguments(
        output_dir=str(tmp_path), score_weights={"dense": 2.0}, temperature={"sparse": 0.5}
    )
    assert arguments.score_weights == PerHead(dense=2.0)
    assert arguments.loss_options(()).temperature_of("sparse") == 0.5


def test_json_holds_all_settings_and_gives_them_back(tmp_path: Path) -> None:
    first = SelfDistillationArguments(
        output_dir=str(tmp_path),
        heads=("dense", "sparse"),
        score_weights=PerHead(dense=3),
        temperature=PerHead(dense=2),
    )
    stored = json.loads(first.to_json_string())
    own = {name: stored[name] for name in ("heads", "score_weights", "temperature", "negatives", "train_encoder")}
    again = SelfDistillationArguments(output_dir=str(tmp_path), **own)
    assert (again.heads, again.loss_options(())) == (first.heads, first.loss_options(()))


def test_a_length_over_the_models_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        trainer(tiny, tmp_path, passage_max_length=65)
    assert str(error.value) == "passage_max_length must be at most 64, the model's maximum, got 65"


def test_a_teachers_weight_needs_its_scores(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        trainer(tiny, tmp_path, teacher_weight=1.0)
    assert str(error.value) == "teacher_weight=1.0 needs pos_scores and neg_scores in every line; some lack them"


def test_stored_scores_as_teacher_must_be_there_in_every_line(tiny: Path, tmp_path: Path) -> None:
    """One line without them would turn self-distillation off."""
    rows = examples(scores=True)
    del rows[5]["pos_scores"], rows[5]["neg_scores"]
    with pytest.raises(ValueError) as error:
        trainer(tiny, tmp_path, teacher=StoredScores(), data=M3Dataset.from_examples(rows))
    assert str(error.value) == "StoredScores as teacher needs pos_scores and neg_scores in every line; some lack them"


def test_rows_that_are_no_dataset_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError) as error:
        trainer(tiny, tmp_path, data=examples())
    assert str(error.value) == "train_dataset must be an M3Dataset, got list; make one by M3Dataset.from_examples"


def test_one_process_with_several_gpus_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SelfDistillationArguments, "n_gpu", 2)
    with pytest.raises(ValueError) as error:
        trainer(tiny, tmp_path)
    assert str(error.value) == (
        "one process cannot train on 2 GPUs; start one for each with `accelerate launch`, or set CUDA_VISIBLE_DEVICES=0"
    )
