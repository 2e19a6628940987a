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
from m3plugins.cli.options import Json, Model
from m3plugins.cli.per_head import per_head

if TYPE_CHECKING:
    from m3plugins.encoding.encoder import M3Encoder
    from m3plugins.evaluation import Dataset
    from m3plugins.training import M3Dataset, SelfDistillationArguments, SelfDistillationTrainer, Teacher

_MAX_LENGTH, _TEMPERATURE = 512, 0.02
_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""Those of transformers that need neither arguments nor evaluations."""
_LINEAR_HEADS = ("sparse", "multi_vector")
_TEMPERATURES = ("dense", *_LINEAR_HEADS, "ensemble")


def _option(panel: str, text: str, *names: str, metavar: str | None = "N", **limits: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, **limits)


def train(
    data: Annotated[list[Path], typer.Argument(help="FlagEmbedding's jsonl files, folders of them, BEIR folders.")],
    output: Annotated[Path, typer.Option(help="A new folder, for the model and, below, the checkpoints of the run.")],
    model: Model = "m3-mini",
    query_prompt: Annotated[
        str | None,
        typer.Option(
            help="Prompt ahead of queries that have none of their own; saved with the model (default: the model's)."
        ),
    ] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Prompt ahead of passages (the model's own).")] = None,
    split: Annotated[str, typer.Option(help="Which qrels of BEIR folders to train on.")] = "train",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output, called as before.")] = False,
    as_json: Json = False,
    epochs: Annotated[float | None, _option("Steps", "Times over the data (1).", min=0)] = None,
    max_steps: Annotated[int | None, _option("Steps", "Steps, instead of --epochs.", min=1)] = None,
    save_steps: Annotated[
        int | None, _option("Steps", "Steps between checkpoints (500, or --eval-steps).", min=1)
    ] = None,
    log_steps: Annotated[int, _option("Steps", "Steps between logs.", min=1)] = 10,
    seed: Annotated[int, _option("Steps", "Random seed of shuffling, negatives and dropout.", min=0)] = 42,
    warmup: Annotated[float, _option("Steps", "Warm-up steps; below 1, a share of all steps.", min=0)] = 0.1,
    scheduler: Annotated[
        str, _option("Steps", f"Learning-rate schedule: {', '.join(_SCHEDULERS)}.", metavar="NAME")
    ] = "linear",
    batch_size: Annotated[int, _option("Batch", "Queries a batch and device.", min=1)] = 32,
    accumulation: Annotated[
        int,
        _option("Batch", "Batches per optimizer step; in-batch negatives are not shared between them.", min=1),
    ] = 1,
    negatives: Annotated[int, _option("Batch", "Hard negatives per query, at most.", min=0)] = 7,
    query_max_length: Annotated[int | None, _option("Batch", "Tokens (512, or the model's maximum).")] = None,
    passage_max_length: Annotated[
        int | None, _option("Batch", "Tokens per passage (512, or the model's maximum).")
    ] = None,
    batch_tokens: Annotated[int | None, _option("Batch", "Most tokens: of long texts fewer queries.", min=1)] = None,
    chunk_tokens: Annotated[int | None, _option("Batch", "Tokens in memory at a time (as many as fit).")] = None,
    encoder: Annotated[
        str, _option("Model", "full, lora (merged at the end) or frozen (the heads alone).", metavar="NAME")
    ] = "full",
    lora_rank: Annotated[int, _option("Model", "Of the matrices of --encoder lora.", min=1)] = 16,
    heads: Annotated[str, _option("Model", "Which to train.", metavar="NAMES")] = "dense,sparse,multi_vector",
    learning_rate: Annotated[
        float | None, _option("Model", "Of encoder and heads (by the model's size).", min=0)
    ] = None,
    head_learning_rate: Annotated[
        str | None, _option("Model", "Of the heads, or by name: sparse=2e-3,multi_vector=2e-4.", metavar="RATES")
    ] = None,
    temperature: Annotated[
        str, _option("Loss", "Divides the scores; or by name: dense=0.02,sparse=0.05.", metavar="NUMBERS")
    ] = str(_TEMPERATURE),
    sparse_loss_weight: Annotated[float, _option("Loss", "Of the sparse losses; others have 1.", min=0)] = 0.1,
    no_self_distillation: Annotated[
        bool, _option("Loss", "The labels alone, no --teacher.", "--no-self-distillation", metavar=None)
    ] = False,
    distillation_start_step: Annotated[int, _option("Loss", "Steps without a teacher at the start.", min=0)] = 0,
    teacher: Annotated[
        str, _option("Loss", "live, frozen, ema, noisy, or stored (the data's scores).", metavar="NAME")
    ] = "live",
    teacher_weight: Annotated[float, _option("Loss", "Of the data's scores in every loss.", min=0)] = 0,
    false_negative_ratio: Annotated[
        float | None, _option("Loss", "No negative scores above this share of the positive's score.")
    ] = None,
    dev: Annotated[
        Path | None, _option("Development", "BEIR folder; the best checkpoint there is the result.", metavar="FOLDER")
    ] = None,
    dev_split: Annotated[str, _option("Development", "Which of its qrels.", metavar="NAME")] = "dev",
    eval_steps: Annotated[int, _option("Development", "Steps between evaluations.", min=1)] = 500,
    patience: Annotated[int | None, _option("Development", "Stop after so many without a better one.", min=1)] = None,
    bf16: Annotated[bool, _option("Machine", "Compute in bfloat16.", "--bf16", metavar=None)] = False,
    gradient_checkpointing: Annotated[
        bool, _option("Machine", "Slower in less memory.", "--gradient-checkpointing", metavar=None)
    ] = False,
    report_to: Annotated[
        str, _option("Machine", "Loggers: tensorboard, wandb, … , or none.", metavar="NAMES")
    ] = "none",
) -> int:
    """Fine-tune dense, sparse and multi-vector together, with self-distillation.

    A line of DATA is {"query": …, "pos": […], "neg": […]}; the guide is docs/training.md.

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
    examples, start = _examples(data, split), _located(model)
    longest = min(_MAX_LENGTH, start.checkpoint.max_length)
    weights = PerHead(sparse=sparse_loss_weight)
    settings: dict[str, Any] = {
        "output_dir": str(output / runs.CHECKPOINTS),
        "max_steps": max_steps or -1,
        "save_steps": save_steps or (500 if dev is None else eval_steps),
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
        "query_max_length": longest if query_max_length is None else query_max_length,
        "passage_max_length": longest if passage_max_length is None else passage_max_length,
        "batch_tokens": batch_tokens,
        "chunk_tokens": chunk_tokens,
        "train_encoder": encoder,
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
    }
    if head_learning_rate is not None:
        settings["head_learning_rate"] = per_head("--head-learning-rate", head_learning_rate, _LINEAR_HEADS)
    if epochs is not None:
        settings["num_train_epochs"] = epochs
    if gradient_checkpointing:
        settings["gradient_checkpointing"] = True
    if dev is not None:
        settings |= {"eval_strategy": "steps", "eval_steps": eval_steps, "load_best_model_at_end": True}
        settings |= {"metric_for_best_model": "all_ndcg@10", "greater_is_better": True}
    collection = None if dev is None else _collection(dev, dev_split)
    call = {"model": model, "data": [str(path.resolve()) for path in data], "split": split}
    try:
        args = SelfDistillationArguments(**settings)
        if args.process_index == 0:
            runs.check_output(output, call, resume=resume)
        trainer = _trainer(start, args, examples, collection, teacher=_teacher(teacher), patience=patience)
    except ValueError as err:
        raise CallError(str(err)) from err
    if args.process_index == 0:
        runs.note_call(output, call)
    return runs.run(trainer, output, resume=resume, as_json=as_json)


def _temperatures(text: str) -> float | dict[str, float]:
    """Those by name leave the default to the others."""
    given = per_head("--temperature", text, _TEMPERATURES)
    return dict.fromkeys(_TEMPERATURES, _TEMPERATURE) | given if isinstance(given, dict) else given


def _loggers(text: str) -> list[str]:
    """The loggers to report to; transformers would find out that one is not installed when the model is in memory."""
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
    from m3plugins.training import DatasetError, M3Dataset

    collections = [path for path in paths if (path / "corpus.jsonl").is_file()]
    files = [path for path in paths if path not in collections]
    try:
        parts = [M3Dataset.from_jsonl(*files)] if files else []
        parts += [M3Dataset.from_beir(path, split) for path in collections]
    except (FileNotFoundError, DatasetError) as err:
        raise CallError(str(err)) from err
    return reduce(add, parts)


def _located(model: str) -> M3Encoder:
    """The model to start from, not in memory yet; an unknown one is a wrong call."""
    from m3plugins.encoding.encoder import M3Encoder

    try:
        encoder = M3Encoder.from_pretrained(model)
        encoder.checkpoint.check()
    except (ValueError, FileNotFoundError) as err:
        raise CallError(str(err)) from err
    return encoder


def _collection(folder: Path, split: str) -> Dataset:
    from m3plugins.evaluation import Dataset, DatasetError

    try:
        return Dataset.load(folder, split)
    except (FileNotFoundError, DatasetError) as err:
        raise CallError(str(err)) from err


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
