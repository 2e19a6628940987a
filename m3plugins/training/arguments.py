"""Settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

import torch
from transformers import TrainingArguments

from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD
from m3plugins.encoding.output import HEADS, check_heads
from m3plugins.training.loss.options import LossOptions, PerHead

EncoderTraining = Literal["full", "lora", "frozen"]

_UNSUPPORTED = {
    "bf16_full_eval",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "fp16_full_eval",
    "group_by_length",
    "include_num_input_tokens_seen",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "optim_target_modules",
    "torch_empty_cache_steps",
    "train_sampling_strategy",
}
"""Settings of transformers that would change nothing, or that its own training step alone can follow."""

_LINEAR_HEADS = {SPARSE_HEAD: "sparse", MULTI_VECTOR_HEAD: "multi_vector"}

_WIDE = 768
"""Hidden size from which the reference's learning rates hold; m3-mini has 384."""


def default_rates(width: int) -> dict[str, float]:
    """Returns the learning rates of the `encoder` and of the linear heads for a hidden size of `width`.

    They are the reference's, for BGE-M3 (1,024), except for the heads of small models: there they are about a third
    of the rates that m3-mini's heads were trained with (`recipes/train_m3_mini.py`), since heads that are trained
    already forget at the full rates.
    """
    if width >= _WIDE:
        return {"encoder": 1e-5, "sparse": 1e-5, "multi_vector": 1e-5}
    return {"encoder": 1e-5, "sparse": 5e-4, "multi_vector": 1e-4}


@dataclass
class SelfDistillationArguments(TrainingArguments):
    """Settings of `SelfDistillationTrainer`, in addition to those of transformers' `TrainingArguments`.

    `per_device_train_batch_size` counts queries. The defaults of the loss are M3's.

    Attributes:
        heads: Heads to train; the others are saved as they were.
        train_encoder: Training of the encoder: "full", "lora" (merged when saved) or "frozen" (the linear heads alone).
        learning_rate: Learning rate of the encoder, and of heads without one of their own. None: that of
            `default_rates`, by the size of the model.
        head_learning_rate: Learning rate of the two linear heads, one for both or by name (`{"sparse": 2e-3}`); a
            head that is not named, and None: `learning_rate`.
        temperature_learning_rate: Learning rate of the logarithms of learned temperatures.
        lora_rank: Rank of the LoRA matrices.
        lora_alpha: Numerator of their scale, alpha / rank.
        lora_dropout: Dropout probability ahead of them.
        query_prompt: Prompt ahead of every query that has no `prompt` of its own, saved in the checkpoint; None: the
            encoder's.
        document_prompt: Prompt ahead of every passage, saved in the checkpoint; None: the encoder's.
        query_max_length: Maximum number of tokens of a query, special tokens included; longer ones are cut.
        passage_max_length: Maximum number of tokens of a passage.
        negatives: Maximum number of hard negatives drawn per query and epoch.
        in_batch_negatives: Compare a query with all passages of the batch, not with its own only.
        cross_device_negatives: Count the passages of all processes as those of the batch.
        same_source: Draw the queries of a batch from one source (a file, a collection).
        mask_known_positives: Never count a passage that equals a positive of the query as its negative.
        false_negative_ratio: Share of the positive's ensemble score above which a passage is no negative; None: off.
        batch_tokens: Maximum number of tokens of a batch, as estimated from the texts' sizes: batches of long texts
            get fewer queries. None: every batch has the same number of queries.
        chunk_tokens: Number of tokens whose activations are held at a time. A larger batch is encoded in chunks, twice
            (GradCache, arXiv 2101.06983): the gradient is the same. None: what the free memory allows.
        temperature: Temperature τ, one for all or one per head.
        learn_temperature: Train τ of each head, from these values on.
        score_weights: Weights of the heads in the ensemble.
        loss_weights: Weights of the contrastive losses.
        distillation_weights: Weights of the self-distillation losses.
        self_distillation: Distil the teacher into each head.
        distillation_start_step: Number of optimizer steps at the start without it (about 6,000 in the paper), by the
            trainer's `global_step`, which a checkpoint keeps.
        teacher_weight: Weight of FlagEmbedding's `knowledge_distillation`: the divergence from the data's `pos_scores`
            and `neg_scores`, added to every contrastive loss. 0: off.
        state_cache_bytes: Bytes for the token states of a frozen encoder, which later epochs then need not compute.

    Raises:
        ValueError: A setting is out of its range.
    """

    output_dir: str = "m3-run"
    per_device_train_batch_size: int = 32
    num_train_epochs: float = 1
    learning_rate: float | None = None
    warmup_steps: float = 0.1
    logging_steps: float = 10
    report_to: None | str | list[str] = "none"
    ddp_find_unused_parameters: bool | None = False
    heads: tuple[str, ...] = HEADS
    train_encoder: EncoderTraining = "full"
    head_learning_rate: float | dict[str, float] | None = None
    temperature_learning_rate: float = 1e-3
    lora_rank: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0
    query_prompt: str | None = None
    document_prompt: str | None = None
    query_max_length: int = 512
    passage_max_length: int = 512
    negatives: int = 7
    in_batch_negatives: bool = LossOptions.in_batch_negatives
    cross_device_negatives: bool = True
    same_source: bool = True
    mask_known_positives: bool = True
    false_negative_ratio: float | None = LossOptions.false_negative_ratio
    batch_tokens: int | None = None
    chunk_tokens: int | None = None
    temperature: float | PerHead = LossOptions.temperature
    learn_temperature: bool = False
    score_weights: PerHead = LossOptions.score_weights
    loss_weights: PerHead = LossOptions.loss_weights
    distillation_weights: PerHead = LossOptions.distillation_weights
    self_distillation: bool = True
    distillation_start_step: int = 0
    teacher_weight: float = 0.0
    state_cache_bytes: int = 0

    def __post_init__(self) -> None:
        self.heads = check_heads(self.heads)
        for name in ("temperature", "score_weights", "loss_weights", "distillation_weights"):
            if isinstance(given := getattr(self, name), Mapping):
                setattr(self, name, PerHead(**given))
        self._check()
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # or transformers refuses bfloat16, which every CPU computes
        super().__post_init__()
        for setting in fields(TrainingArguments):
            if setting.name in _UNSUPPORTED and getattr(self, setting.name) != setting.default:
                msg = f"{setting.name} is not supported, got {getattr(self, setting.name)!r}; leave it out"
                raise ValueError(msg)

    def rate_of(self, parameter: str, width: int) -> float:
        """Returns the learning rate of one of the model's parameters.

        Args:
            parameter: Name of the parameter in the checkpoint.
            width: The hidden size of the model.
        """
        part, given = _LINEAR_HEADS.get(parameter.partition(".")[0], "encoder"), self.head_learning_rate
        own = given.get(part) if isinstance(given, Mapping) else given
        rate = self.learning_rate if own is None or part == "encoder" else own
        return default_rates(width)[part] if rate is None else float(rate)

    def loss_options(self, special_ids: tuple[int, ...]) -> LossOptions:
        """Returns the settings of `m3_loss`."""
        return LossOptions(
            special_ids=special_ids,
            temperature=self.temperature,
            score_weights=self.score_weights,
            loss_weights=self.loss_weights,
            distillation_weights=self.distillation_weights,
            teacher_weight=self.teacher_weight,
            in_batch_negatives=self.in_batch_negatives,
            false_negative_ratio=self.false_negative_ratio,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings in types that JSON has."""
        plain: dict[str, Any] = super().to_dict()
        return {name: asdict(value) if is_dataclass(value) else value for name, value in plain.items()}  # type: ignore[arg-type]

    def _given_rates(self) -> dict[str, float | None]:
        rates = {name: getattr(self, name) for name in ("learning_rate", "temperature_learning_rate")}
        if isinstance(given := self.head_learning_rate, Mapping):
            return rates | {f"head_learning_rate of {head}": rate for head, rate in given.items()}
        return rates | {"head_learning_rate": given}

    def _check(self) -> None:
        if self.train_encoder not in get_args(EncoderTraining):
            msg = f"train_encoder must be one of {', '.join(get_args(EncoderTraining))}, got {self.train_encoder!r}"
            raise ValueError(msg)
        if self.train_encoder == "frozen" and self.heads == ("dense",):
            msg = 'nothing to train: the dense head of a frozen encoder has no weights; use train_encoder="lora"'
            raise ValueError(msg)
        if isinstance(self.head_learning_rate, Mapping) and (
            unknown := self.head_learning_rate.keys() - _LINEAR_HEADS.values()
        ):
            named = ", ".join(_LINEAR_HEADS.values())
            msg = f"head_learning_rate must be of heads with weights of their own, {named}, got {sorted(unknown)}"
            raise ValueError(msg)
        for name, rate in self._given_rates().items():
            if rate is not None and not 0 <= rate < math.inf:
                msg = f"{name} must be a finite number >= 0, got {rate}"
                raise ValueError(msg)
        smallest = {"query_max_length": 3, "passage_max_length": 3, "negatives": 0, "lora_rank": 1, "chunk_tokens": 1}
        smallest |= {"batch_tokens": 1, "distillation_start_step": 0, "teacher_weight": 0, "state_cache_bytes": 0}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # NaN is not
                msg = f"{name} must be at least {least}, got {value}"
                raise ValueError(msg)
        if self.state_cache_bytes and self.train_encoder != "frozen":
            msg = f'state_cache_bytes needs train_encoder="frozen", got {self.train_encoder!r}: its states change'
            raise ValueError(msg)
        if not self.in_batch_negatives and not self.negatives:
            msg = "in_batch_negatives=False needs negatives of at least 1: a query would have its positive alone"
            raise ValueError(msg)
        if self.auto_find_batch_size:
            msg = (
                "auto_find_batch_size is not supported, the batch size changes the task; leave chunk_tokens out instead"
            )
            raise ValueError(msg)
        self.loss_options(())
