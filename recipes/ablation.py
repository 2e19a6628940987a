"""The paper's ablation on m3-mini: what self-distillation does for each head, at several settings and seeds.

    python recipes/ablation.py --data DIR --output benchmarks/results/DATE-ablation.md
    python recipes/ablation.py --values benchmarks/results/DATE-ablation.json

Every variant is trained on the same data for the same steps, with and without self-distillation. Settings are those
of the recipe; the judged collections choose none of them. Differences come with 95% bootstrap intervals over seeds and
queries, which are paired. What a run found is kept in the work folder: the same command goes on where it was stopped.
Beside the tables goes a JSON file with the nDCG@10 of every query, of which the second command makes the tables again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mini_data import DEVELOPMENT, Task, read_task
from mini_scores import ROWS, head_scores, ndcg_of_rows
from train_m3_mini import train, training_set, untrained_checkpoint

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.evaluation.significance import bootstrap_interval
from m3plugins.training import (
    FrozenEnsemble,
    LiveEnsemble,
    M3Model,
    MovingAverage,
    PerHead,
    Teacher,
)
from m3plugins.training.model.state_cache import StateCache

JUDGED = {"scifact": "test", "cacm": "test"}
COMMON = {"learning_rate": 1e-3, "head_learning_rate": None, "per_device_train_batch_size": 32, "temperature": 0.02}
PAPER = {**COMMON, "loss_weights": PerHead(sparse=0.1), "distillation_weights": PerHead(sparse=0.1)}
EQUAL = {**COMMON, "loss_weights": PerHead(), "distillation_weights": PerHead()}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table: settings, and who teaches."""

    name: str
    settings: dict[str, Any]
    teacher: Callable[[], Teacher] | None = LiveEnsemble


def pair(name: str, settings: dict[str, Any]) -> list[Variant]:
    """The same settings without and with self-distillation."""
    return [Variant(f"{name}, none", settings, None), Variant(f"{name}, live", settings)]


FROZEN = [
    *pair("sparse loss 0.1", PAPER),
    *pair("sparse loss 1", EQUAL),
    Variant("sparse loss 1, frozen teacher", EQUAL, FrozenEnsemble),
    Variant("sparse loss 1, EMA teacher", EQUAL, lambda: MovingAverage(0.95)),
    *pair("sparse loss 1, batch 96", {**EQUAL, "per_device_train_batch_size": 96}),
]
ADAPTED = {"train_encoder": "lora", "learning_rate": 5e-5, "head_learning_rate": 1e-3}
LORA = [*pair("LoRA, sparse loss 1", {**EQUAL, **ADAPTED}), *pair("LoRA, sparse loss 0.1", {**PAPER, **ADAPTED})]


def main() -> None:
    """Train every variant with every seed, judge each, and print the tables."""
    parser = argparse.ArgumentParser(description="Ablation of self-distillation on m3-mini.")
    parser.add_argument("--data", type=Path, help="folder of the collections")
    parser.add_argument("--values", type=Path, help="the values of an earlier run, in place of --data: train nothing")
    parser.add_argument("--work", type=Path, default=Path("m3-mini-work"), help="as in train_m3_mini.py")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lora", action="store_true", help="the LoRA variants instead of the frozen encoder")
    parser.add_argument("--development", action="store_true", help="judge on the development sets instead")
    parser.add_argument("--documents", type=int, help="judge over the relevant documents and others, up to this many")
    arguments = parser.parse_args()
    if (arguments.data is None) == (arguments.values is None):
        parser.error("give --data, to train, or --values, to make the tables of an earlier run")
    if arguments.values:
        print(report(*read_values(arguments.values)))
        return

    start, cache, spent = untrained_checkpoint(arguments.work), StateCache(6 << 30), 0.0
    results = arguments.work / "ablation"
    results.mkdir(parents=True, exist_ok=True)
    dataset = training_set(arguments.data, arguments.work)
    chosen = DEVELOPMENT if arguments.development else JUDGED
    tasks = [read_task(arguments.data, name, split).first(400) for name, split in chosen.items()]
    if arguments.documents:
        tasks = [task.among(arguments.documents) for task in tasks]
    judged_on = ", ".join(f"{task.name} {len(task.documents)}" for task in tasks)
    untrained = M3Model(Checkpoint(start), freeze_encoder=True, state_cache=cache)
    found = {"untrained": [judge(untrained, tasks)]}
    text = ""
    for variant in LORA if arguments.lora else FROZEN:
        for seed in range(arguments.seeds):
            kept = results / f"{variant.name}, seed {seed}, {arguments.steps} steps, {judged_on}.json"
            if not kept.exists():
                began = time.monotonic()
                teacher = variant.teacher() if variant.teacher else None
                own = {**variant.settings, "self_distillation": teacher is not None, "disable_tqdm": True}
                own |= {"seed": seed, "max_steps": arguments.steps, "logging_steps": arguments.steps}
                values = judge(train(start, dataset, cache, teacher, **own), tasks)
                write(kept, values, time.monotonic() - began)
            values, seconds = read(kept)
            found.setdefault(variant.name, []).append(values)
            spent += seconds
            print(f"{seconds:6.0f} s  {kept.stem}", flush=True)
        facts = {"judged_on": judged_on, "steps": arguments.steps, "seconds": spent}
        text = report(found, facts)
        if arguments.output:
            arguments.output.write_text(text, encoding="utf-8")
            write_values(arguments.output.with_suffix(".json"), found, facts)
    print(text)


Judged = dict[str, list[np.ndarray]]
"""NDCG@10 of each query of each collection, by row."""


def judge(model: M3Model, tasks: list[Task]) -> Judged:
    """Judges a model, to the digits that are kept."""
    parts = [ndcg_of_rows(head_scores(model, task), task) for task in tasks]
    return {row: [part[row].round(5) for part in parts] for row in ROWS}


def write(path: Path, values: Judged, seconds: float) -> None:
    """Keeps what a run found."""
    ndcg = {row: [part.tolist() for part in parts] for row, parts in values.items()}
    path.write_text(json.dumps({"seconds": seconds, "ndcg": ndcg}), encoding="utf-8")


def read(path: Path) -> tuple[Judged, float]:
    """Reads the values of a run, and its seconds."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return {row: [np.array(part) for part in parts] for row, parts in kept["ndcg"].items()}, kept["seconds"]


def write_values(path: Path, found: dict[str, list[Judged]], facts: dict[str, Any]) -> None:
    """Keeps the nDCG@10 of every query, by variant, seed, row and collection."""
    ndcg = {
        name: [{row: [part.tolist() for part in parts] for row, parts in seed.items()} for seed in seeds]
        for name, seeds in found.items()
    }
    path.write_text(json.dumps({**facts, "ndcg": ndcg}), encoding="utf-8")


def read_values(path: Path) -> tuple[dict[str, list[Judged]], dict[str, Any]]:
    """Reads what `write_values` kept."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    found = {
        name: [{row: [np.array(part) for part in parts] for row, parts in seed.items()} for seed in seeds]
        for name, seeds in facts.pop("ndcg").items()
    }
    return found, facts


def report(found: dict[str, list[Judged]], facts: dict[str, Any]) -> str:
    """The tables in Markdown."""
    runs = sum(map(len, found.values())) - 1
    lines = [
        f"nDCG@10, mean of {facts['judged_on']}; {facts['steps']} steps, {max(map(len, found.values()))} seeds (± is",
        f"their standard deviation); {runs} runs in {facts['seconds'] / 60:.0f} minutes, scoring included.",
        "",
        "| variant | " + " | ".join(ROWS) + " |",
        "|---|" + "---|" * len(ROWS),
    ]
    for name, seeds in found.items():
        cells = []
        for row in ROWS:
            means = [float(np.mean([part.mean() for part in seed[row]])) for seed in seeds]
            cells.append(f"{np.mean(means):.4f}" + (f" ± {np.std(means, ddof=1):.4f}" if len(means) > 1 else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Differences, in points, with 95% intervals over seeds and queries:", "", lines[3], lines[4]]
    for name in found:
        base = f"{name.rsplit(', ', 1)[0]}, none"
        if name != base and base in found:
            lines.append(f"| {name} against {base} | " + _differences(found[name], found[base]))
        if name != "untrained":
            lines.append(f"| {name} against untrained | " + _differences(found[name], found["untrained"]))
    return "\n".join(lines) + "\n"


def _differences(ours: list[Judged], theirs: list[Judged]) -> str:
    cells = []
    for row in ROWS:
        pairs = zip(_of_seeds(ours, row), _of_seeds(theirs, row), strict=True)  # what was not trained has one seed
        found = bootstrap_interval([a - b for a, b in pairs])
        cells.append(f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
    return " | ".join(cells) + " |"


def _of_seeds(seeds: list[Judged], row: str) -> list[np.ndarray]:
    """Stacks the nDCG@10 of each collection, (seeds, queries)."""
    return [np.stack(parts) for parts in zip(*(seed[row] for seed in seeds), strict=True)]


if __name__ == "__main__":
    main()
