"""How good the model is while it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import EarlyStoppingCallback

from m3plugins import M3Encoder
from m3plugins.evaluation import Dataset, evaluate
from m3plugins.indexing.in_memory import InMemoryHybridIndex
from m3plugins.training import CheckpointError, M3Dataset, StoredScores
from m3plugins.training.checkpoint import manifest
from m3plugins.training.model.live_encoder import live_encoder
from tests.core.training.runs import curve, examples, trainer, weights
from tests.tiny import SENTENCES

NDCG = {f"{name}_ndcg@10" for name in ("dense", "sparse", "multi_vector", "ds", "all")}
LOSSES = {
    "loss", "loss_dense", "loss_sparse", "loss_multi_vector", "loss_ensemble", "loss_dense_distillation",
    "loss_sparse_distillation", "loss_multi_vector_distillation",
}  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of two dozen documents and six queries."""
    folder = tmp_path_factory.mktemp("collection")
    (folder / "qrels").mkdir()
    documents = [*SENTENCES, *(text[::-1] for text in SENTENCES)]
    write(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(documents)])
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": SENTENCES[n][4:14]} for n in range(6)])
    rows = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return Dataset.load(folder)


@pytest.fixture(scope="module")
def pairs() -> M3Dataset:
    return M3Dataset.from_examples(examples()[:5])


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def measured(metrics: dict[str, float]) -> set[str]:
    return {name for name in metrics if name.startswith("eval_")}


# --- what is measured


def test_a_collection_is_measured_by_the_ranking_of_every_head(tiny: Path, tmp_path: Path, collection: Dataset) -> None:
    metrics = trainer(tiny, tmp_path, eval_dataset=collection).evaluate()
    assert measured(metrics) == {f"eval_{name}" for name in NDCG}


def test_the_metrics_are_those_of_the_saved_model(tiny: Path, tmp_path: Path, collection: Dataset) -> None:
    run = trainer(tiny, tmp_path / "run", eval_dataset=collection, max_steps=3)
    run.train()
    metrics = run.evaluate()
    run.save_model(str(tmp_path / "saved"))
    index = InMemoryHybridIndex(encoder=M3Encoder.from_pretrained(tmp_path / "saved"), codec=None)
    index.upsert(collection.documents())
    rows = evaluate(index, collection, measures=("nDCG@10",)).means()
    names = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector", "ds": "D+S", "all": "All"}
    for name, row in names.items():
        assert metrics[f"eval_{name}_ndcg@10"] == pytest.approx(rows[row]["nDCG@10"])


def test_pairs_are_measured_by_their_losses(tiny: Path, tmp_path: Path, pairs: M3Dataset) -> None:
    metrics = trainer(tiny, tmp_path, eval_dataset=pairs).evaluate()
    assert measured(metrics) == {f"eval_{name}" for name in LOSSES}


@pytest.mark.parametrize("taught", [{"teacher": StoredScores()}, {"teacher_weight": 1.0}, {}])
def test_pairs_without_scores_are_measured_where_the_training_data_has_some(
    tiny: Path, tmp_path: Path, pairs: M3Dataset, taught: dict[str, Any]
) -> None:
    metrics = trainer(tiny, tmp_path, scores=True, eval_dataset=pairs, **taught).evaluate()
    assert "eval_loss" in metrics
    assert ("eval_loss_dense_distillation" in metrics) == ("teacher" not in taught)


def test_the_loss_of_pairs_is_that_of_training(tiny: Path, tmp_path: Path) -> None:
    """Of one batch that is all the data: the order of a batch's queries does not matter."""
    data = M3Dataset.from_examples([row | {"neg": row["neg"][:1]} for row in examples()])
    common: dict[str, Any] = {"data": data, "per_device_train_batch_size": 12, "per_device_eval_batch_size": 12}
    run = trainer(tiny, tmp_path, eval_dataset=data, max_steps=1, **common)
    metrics = run.evaluate()
    run.train()
    (entry,) = (entry for entry in curve(run) if "loss" in entry)
    for name in LOSSES:
        assert metrics[f"eval_{name}"] == pytest.approx(entry[name], rel=1e-3, abs=1e-4)


def test_the_loss_of_pairs_is_the_same_sum_before_distillation_starts(
    tiny: Path, tmp_path: Path, pairs: M3Dataset
) -> None:
    """Or the best model would be the last without it."""
    found = trainer(
        tiny, tmp_path, eval_dataset=pairs, learning_rate=0.0, distillation_start_step=2, max_steps=3,
        eval_strategy="steps", eval_steps=1,
    )  # fmt: skip
    found.train()
    assert len({entry["eval_loss"] for entry in curve(found) if "eval_loss" in entry}) == 1


def test_several_sets_are_measured_by_name_and_on_the_mean(
    tiny: Path, tmp_path: Path, collection: Dataset, pairs: M3Dataset
) -> None:
    run = trainer(tiny, tmp_path, eval_dataset={"one": collection, "two": collection, "pairs": pairs})
    metrics = run.evaluate()
    assert measured(metrics) == {
        *(f"eval_{name}" for name in NDCG | LOSSES),
        *(f"eval_{part}_{name}" for part in ("one", "two") for name in NDCG),
        *(f"eval_pairs_{name}" for name in LOSSES),
    }
    assert metrics["eval_all_ndcg@10"] == pytest.approx(
        (metrics["eval_one_all_ndcg@10"] + metrics["eval_two_all_ndcg@10"]) / 2
    )
    assert metrics["eval_loss"] == metrics["eval_pairs_loss"]


def test_a_set_of_another_kind_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError) as error:
        trainer(tiny, tmp_path, eval_dataset=[1, 2]).evaluate()
    assert str(error.value) == (
        "eval_dataset must be an evaluation.Dataset, an M3Dataset or a mapping of them, got list"
    )


def test_the_live_encoder_follows_the_model(tiny: Path, tmp_path: Path) -> None:
    run = trainer(tiny, tmp_path, max_steps=2)
    encoder = live_encoder(run.model, run.encoder)
    before = encoder.encode_queries(["fox?"]).dense.copy()
    assert np.abs(before - run.encoder.encode_queries(["fox?"]).dense).max() <= 1e-6
    run.train()
    run.model.eval()
    assert np.abs(encoder.encode_queries(["fox?"]).dense - before).max() > 1e-3


# --- what it is good for


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_evaluation_changes_nothing_in_the_run(
    tiny_with_dropout: Path, tmp_path: Path, collection: Dataset, pairs: M3Dataset, kind: str
) -> None:
    """Neither mode nor random numbers: the curve with dropout is the same, and so are the weights."""
    common = {"max_steps": 4, "train_encoder": kind, "lora_dropout": 0.1}
    plain = trainer(tiny_with_dropout, tmp_path / "a", **common)
    plain.train()
    evaluated = trainer(
        tiny_with_dropout, tmp_path / "b", **common, eval_strategy="steps", eval_steps=1,
        eval_dataset={"collection": collection, "pairs": pairs},
    )  # fmt: skip
    evaluated.train()
    assert [entry for entry in curve(evaluated) if "loss" in entry] == curve(plain)
    assert len([entry for entry in curve(evaluated) if "eval_loss" in entry]) == 4
    expected = weights(plain)
    assert all(bool((tensor == expected[name]).all()) for name, tensor in weights(evaluated).items())


FALLING: dict[str, Any] = {
    "learning_rate": 5e-4, "temperature": 0.2, "warmup_steps": 0, "eval_strategy": "steps", "eval_steps": 1,
    "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
}  # fmt: skip
"""Of a loss that falls the largest is called the best, so that the best model is the first."""


def test_the_best_model_is_kept_and_loaded_when_training_stops_early(
    tiny: Path, tmp_path: Path, pairs: M3Dataset
) -> None:
    patience = EarlyStoppingCallback(early_stopping_patience=2)
    run = trainer(tiny, tmp_path, eval_dataset=pairs, max_steps=12, save_total_limit=1, callbacks=[patience], **FALLING)
    run.train()
    losses = [entry["eval_loss"] for entry in curve(run) if "eval_loss" in entry]
    assert len(losses) == 3 and losses[0] == max(losses)
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    manifest.verify(tmp_path / "checkpoint-1")
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-4)


def test_the_best_checkpoint_outlives_the_limit(tiny: Path, tmp_path: Path, pairs: M3Dataset) -> None:
    run = trainer(tiny, tmp_path, eval_dataset=pairs, max_steps=4, save_total_limit=2, **FALLING)
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-4"}


def test_a_damaged_best_checkpoint_is_not_loaded(tiny: Path, tmp_path: Path, pairs: M3Dataset) -> None:
    run = trainer(tiny, tmp_path, eval_dataset=pairs, max_steps=1, save_strategy="steps", save_steps=1)
    run.train()
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    run.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        run._load_best_model()


def test_the_best_models_temperatures_come_with_it(tiny: Path, tmp_path: Path, pairs: M3Dataset) -> None:
    run = trainer(
        tiny, tmp_path, eval_dataset=pairs, learn_temperature=True, temperature_learning_rate=0.3, learning_rate=5e-3,
        warmup_steps=0, temperature=0.2, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    run.train()
    assert run.state.best_global_step < run.state.global_step
    assert run.evaluate()["eval_loss"] == pytest.approx(run.state.best_metric, rel=1e-6)
