"""`m3 train`: fine-tune a model's three heads together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3plugins.cli import runs
from m3plugins.cli.errors import CallError
from m3plugins.cli.options import Json, Model, calls, load_encoder
from m3plugins.cli.per_head import per_head

if TYPE_CHECKING:
    from m3plugins.encoding.encoder import M3Encoder
    from m3plugins.evaluation import Dataset
    from m3plugins.training import M3Dataset, SelfDistillationArguments, SelfDistillationTrainer, Teacher

_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""Schedules of transformers that need neither arguments nor evaluations."""
_LINEAR_HEADS = ("sparse", "multi_vector")
_TEMPERATURES = ("dense", *_LINEAR_HEADS, "ensemble")


def _option(panel: str, text: str, *names: str, metavar: str | None = "N", **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, **limits)


def train(
    data: Annotated[
        list[Path], typer.Argument(help="FlagEmbedding's JSON lines files, folders of them, BEIR folders.")
    ],
    output: Annotated[Path, typer.Option(help="New folder for the model and, below it, the checkpoints of the run.")],
    model: Model = "m3-mini",
    query_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt ahead of queries that have none of their own, saved with the model (default: the model's)."
        ),
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Prompt ahead of passages, saved with the model (default: the model's).")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of BEIR folders, one of their qrels, to train on.")] = "train",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output, which was begun by the same call.")
    ] = False,
    as_json: Json = False,
    epochs: Annotated[float | None, _option("Steps", "Number of passes over the data (default: 1).", min=0)] = None,
    max_steps: Annotated[int | None, _option("Steps", "Number of steps, in place of --epochs.", min=1)] = None,
    save_steps: Annotated[
        int | None, _option("Steps", "Number of steps between checkpoints (default: 500, or --eval-steps).", min=1)
    ] = None,
    log_steps: Annotated[int, _option("Steps", "Number of steps between logs.", min=1)] = 10,
    seed: Annotated[int, _option("Steps", "Random seed of shuffling, negatives and dropout.", min=0)] = 42,
    warmup: Annotated[
        float, _option("Steps", "Number of warm-up steps; below 1, their share of all steps.", min=0)
    ] = 0.1,
    scheduler: Annotated[
        str, _option("Steps", f"Schedule of the learning rate: {', '.join(_SCHEDULERS)}.", metavar="NAME")
    ] = "linear",
    batch_size: Annotated[int, _option("Batch", "Number of queries per batch and device.", min=1)] = 32,
    accumulation: Annotated[
        int,
        _option("Batch", "Number of batches per optimizer step; each has its own in-batch negatives.", min=1),
    ] = 1,
    negatives: Annotated[int, _option("Batch", "Maximum number of hard negatives per query.", min=0)] = 7,
    query_max_length: Annotated[
        int | None, _option("Batch", "Maximum number of tokens per query (default: 512, or the model's maximum).")
    ] = None,
    passage_max_length: Annotated[
        int | None, _option("Batch", "Maximum number of tokens per passage (default: 512, or the model's maximum).")
    ] = None,
    batch_tokens: Annotated[
        int | None, _option("Batch", "Maximum number of tokens per batch; long texts then get fewer queries.", min=1)
    ] = None,
    chunk_tokens: Annotated[
        int | None, _option("Batch", "Number of tokens in memory at a time (default: as many as fit).")
    ] = None,
    train_encoder: Annotated[
        str,
        _option("Model", "Training of the encoder: full, lora (merged at the end) or frozen.", metavar="NAME"),
    ] = "full",
    lora_rank: Annotated[int, _option("Model", "Rank of the matrices of --train-encoder lora.", min=1)] = 16,
    heads: Annotated[str, _option("Model", "Heads to train.", metavar="NAMES")] = "dense,sparse,multi_vector",
    learning_rate: Annotated[
        float | None,
        _option("Model", "Learning rate of the encoder and the heads (default: by the model's size).", min=0),
    ] = None,
    head_learning_rate: Annotated[
        str | None,
        _option("Model", "Learning rate of the heads, or by name: sparse=2e-3,multi_vector=2e-4.", metavar="RATES"),
    ] = None,
    temperature: Annotated[
        str, _option("Loss", "Divisor of the scores, or by name: dense=0.02,sparse=0.05.", metavar="NUMBERS")
    ] = "0.02",
    sparse_loss_weight: Annotated[
        float, _option("Loss", "Weight of the sparse losses; the others have 1.", min=0)
    ] = 0.1,
    no_self_distillation: Annotated[
        bool, _option("Loss", "Train on the labels alone, without --teacher.", "--no-self-distillation", metavar=None)
    ] = False,
    distillation_start_step: Annotated[
        int, _option("Loss", "Number of steps without a teacher at the start.", min=0)
    ] = 0,
    teacher: Annotated[
        str,
        _option(
            "Loss", "Teacher of the heads: live, frozen, ema, noisy, or stored (the data's scores).", metavar="NAME"
        ),
    ] = "live",
    teacher_weight: Annotated[float, _option("Loss", "Weight of the data's scores in every loss.", min=0)] = 0,
    false_negative_ratio: Annotated[
        float | None, _option("Loss", "Share of the positive's score above which no passage is a negative.")
    ] = None,
    dev: Annotated[
        Path | None,
        _option(
            "Development",
            "BEIR folder to evaluate on; the checkpoint that is best there is the result.",
            metavar="FOLDER",
        ),
    ] = None,
    dev_split: Annotated[
        str, _option("Development", "Split of that folder, one of its qrels.", metavar="NAME")
    ] = "dev",
    eval_steps: Annotated[int, _option("Development", "Number of steps between evaluations.", min=1)] = 500,
    patience: Annotated[
        int | None,
        _option("Development", "Number of evaluations without a better one after which training stops.", min=1),
    ] = None,
    bf16: Annotated[bool, _option("Machine", "Compute in bfloat16.", "--bf16", metavar=None)] = False,
    gradient_checkpointing: Annotated[
        bool,
        _option("Machine", "Recompute activations: slower, in less memory.", "--gradient-checkpointing", metavar=None),
    ] = False,
    report_to: Annotated[
        str, _option("Machine", "Loggers to report to: tensorboard, wandb, …, or none.", metavar="NAMES")
    ] = "none",
) -> int:
    """Fine-tune the dense, sparse and multi-vector heads together, with self-distillation.

    A line of DATA is {"query": …, "pos": […], "neg": […]}; docs/training.md is the guide.

    On several GPUs: accelerate launch -m m3plugins.cli train …
    """
    from m3plugins.training import PerHead, SelfDistillationArguments

    if epochs is not None and max_steps is not None:
        msg = f"--epochs {epochs:g} and --max-steps {max_steps} are two ends; give one"
        raise CallError(msg)
    if patience is not None and dev is None:
        msg = f"--patience {patience} needs --dev, what to evaluate on"
        raise CallError(msg)
    _check_one_of("--scheduler", scheduler, _SCHEDULERS)
    examples, start = _examples(data, split), load_encoder(model, weights=False)
    lengths = {
        name: min(getattr(SelfDistillationArguments, name), start.checkpoint.max_length) if given is None else given
        for name, given in {"query_max_length": query_max_length, "passage_max_length": passage_max_length}.items()
    }
    weights = PerHead(sparse=sparse_loss_weight)
    settings: dict[str, Any] = lengths | {
        "output_dir": str(output / runs.CHECKPOINTS),
        "num_train_epochs": epochs,
        "max_steps": max_steps,
        "save_steps": eval_steps if save_steps is None and dev is not None else save_steps,
        "save_total_limit": 2,
        "logging_steps": log_steps,
        "report_to": _loggers(report_to),
        "seed": seed,
        "warmup_steps": warmup,
        "lr_scheduler_type": scheduler,
        "gradient_accumulation_steps": accumulation,
        "query_prompt": query_prompt,
        "document_prompt": document_prompt,
        "per_device_train_batch_size": batch_size,
        "negatives": negatives,
        "batch_tokens": batch_tokens,
        "chunk_tokens": chunk_tokens,
        "train_encoder": train_encoder,
        "lora_rank": lora_rank,
        "heads": tuple(head.strip() for head in heads.split(",")),
        "learning_rate": learning_rate,
        "temperature": _temperatures(temperature),
        "loss_weights": weights,
        "distillation_weights": weights,
        "self_distillation": not no_self_distillation,
        "distillation_start_step": distillation_start_step,
        "teacher_weight": teacher_weight,
        "false_negative_ratio": false_negative_ratio,
        "bf16": bf16,
        "gradient_checkpointing": gradient_checkpointing or None,
    }
    if head_learning_rate is not None:
        settings["head_learning_rate"] = per_head("--head-learning-rate", head_learning_rate, _LINEAR_HEADS)
    if dev is not None:
        settings |= {"eval_strategy": "steps", "eval_steps": eval_steps, "load_best_model_at_end": True}
        settings |= {"metric_for_best_model": "all_ndcg@10", "greater_is_better": True}
    collection = None if dev is None else _collection(dev, dev_split)
    call = {"model": model, "data": [str(path.resolve()) for path in data], "split": split}
    try:
        args = SelfDistillationArguments(**{name: value for name, value in settings.items() if value is not None})
        if args.process_index == 0:
            runs.check_output(output, call, resume=resume)
        trainer = _trainer(start, args, examples, collection, teacher=_teacher(teacher), patience=patience)
    except ValueError as err:
        raise CallError(str(err)) from err
    if args.process_index == 0:
        runs.note_call(output, call)
    return runs.run(trainer, output, resume=resume, as_json=as_json)


def _temperatures(text: str) -> float | dict[str, float]:
    """The temperature, or the temperatures by name; what is not named has the default."""
    from m3plugins.training import LossOptions

    given, defaults = per_head("--temperature", text, _TEMPERATURES), LossOptions(special_ids=())
    return {name: defaults.temperature_of(name) for name in _TEMPERATURES} | given if isinstance(given, dict) else given


def _loggers(text: str) -> list[str]:
    """The loggers to report to; transformers would miss one that is not installed only when the model is in memory."""
    from transformers.integrations import get_available_reporting_integrations

    names, installed = [name.strip() for name in text.split(",")], get_available_reporting_integrations()
    if names not in (["none"], ["all"]) and (missing := [name for name in names if name not in installed]):
        found = ", ".join(installed) or "none"
        msg = (
            f"--report-to must name installed loggers ({found}), got {', '.join(missing)}; install it, or leave it out"
        )
        raise CallError(msg)
    return names


def _check_one_of(option: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        msg = f"{option} must be one of {', '.join(names)}, got {name!r}"
        raise CallError(msg)


def _examples(paths: Sequence[Path], split: str) -> M3Dataset:
    """The training data of all the paths; a file that is not there, or holds something else, is a wrong call."""
    from m3plugins.training import M3Dataset

    collections = [path for path in paths if (path / "corpus.jsonl").is_file()]
    files = [path for path in paths if path not in collections]
    with calls(FileNotFoundError):
        parts = [M3Dataset.from_jsonl(*files)] if files else []
        parts += [M3Dataset.from_beir(path, split) for path in collections]
        return reduce(add, parts)


def _collection(folder: Path, split: str) -> Dataset:
    from m3plugins.evaluation import Dataset

    with calls(FileNotFoundError):
        return Dataset.load(folder, split)


def _teacher(name: str) -> Teacher:
    from m3plugins.training import FrozenEnsemble, LiveEnsemble, MovingAverage, NoisyEnsemble, StoredScores

    kinds: dict[str, Callable[[], Teacher]] = {
        "live": LiveEnsemble,
        "frozen": FrozenEnsemble,
        "ema": MovingAverage,
        "noisy": NoisyEnsemble,
        "stored": StoredScores,
    }
    _check_one_of("--teacher", name, kinds)
    return kinds[name]()


def _trainer(
    start: M3Encoder,
    args: SelfDistillationArguments,
    examples: M3Dataset,
    collection: Dataset | None,
    *,
    teacher: Teacher,
    patience: int | None,
) -> SelfDistillationTrainer:
    from transformers import EarlyStoppingCallback

    from m3plugins.training import SelfDistillationTrainer
    from m3plugins.training.callbacks import SparseCollapseAlarm

    callbacks = [SparseCollapseAlarm()] if "sparse" in args.heads else []
    if patience is not None:
        callbacks.append(EarlyStoppingCallback(patience))
    return SelfDistillationTrainer(start, args, examples, collection, teacher=teacher, callbacks=callbacks)
