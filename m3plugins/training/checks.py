"""Checks that the settings, the model, the data and the teacher of a run fit together."""

from __future__ import annotations

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.teachers.teacher import Teacher


def check_run(
    args: SelfDistillationArguments, checkpoint: Checkpoint, dataset: M3Dataset | None, teacher: Teacher
) -> None:
    """Refuses an impossible run before anything is loaded.

    Raises:
        TypeError: The data is no `M3Dataset`.
        ValueError: Something does not fit; the message says what to change.
    """
    if not isinstance(dataset, M3Dataset | None):
        msg = f"train_dataset must be an M3Dataset, got {type(dataset).__name__}; make one by M3Dataset.from_examples"
        raise TypeError(msg)
    for name in ("query_max_length", "passage_max_length"):
        if getattr(args, name) > checkpoint.max_length:
            msg = f"{name} must be at most {checkpoint.max_length}, the model's maximum, got {getattr(args, name)}"
            raise ValueError(msg)
    if args.deepspeed or args.fsdp:
        msg = (
            "sharded training (deepspeed, fsdp) is not supported; use DDP, and gradient_checkpointing or LoRA for room"
        )
        raise ValueError(msg)
    if args.n_gpu > 1:
        remedy = "start one for each with `accelerate launch`, or set CUDA_VISIBLE_DEVICES=0"
        msg = f"one process cannot train on {args.n_gpu} GPUs; {remedy}"
        raise ValueError(msg)
    if dataset is not None and not dataset.columns.has_scores and (args.teacher_weight or teacher.reads_scores):
        reader = (
            f"teacher_weight={args.teacher_weight}" if args.teacher_weight else f"{type(teacher).__name__} as teacher"
        )
        msg = f"{reader} needs pos_scores and neg_scores in every line; some lack them"
        raise ValueError(msg)
