"""M3's joint training with self-distillation, on the Trainer of transformers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    DefaultFlowCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training import adapters, checkpointing, grad_cache, masking
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.batch import Batch
from m3plugins.training.callbacks import Probe
from m3plugins.training.checks import check_run
from m3plugins.training.data.collator import M3Collator
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.development import DevelopmentSet, evaluate_model
from m3plugins.training.loss.gathering import gather_representations, gather_rows
from m3plugins.training.loss.grad_cache import Chunks, Pair
from m3plugins.training.loader import EpochLoader, train_loader
from m3plugins.training.loss.joint import M3Loss, m3_loss
from m3plugins.training.model.memory import chunk_tokens
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.model.parameter_groups import parameter_groups
from m3plugins.training.model.prompts import trained_prompts
from m3plugins.training.checkpoint.checkpointer import ResumableTrainer
from m3plugins.training.model.state_cache import StateCache
from m3plugins.training.teachers.ensembles import LiveEnsemble, Teacher
from m3plugins.training.loss_log import Terms, figures, loss_names

_FORWARD_TOKENS = {"cpu": 1024}
"""Padded tokens encoded together: short runs of texts of one length waste little on padding."""

_NO_NEGATIVE = (
    "the queries of a batch have their positives alone, so nothing is learnt from it; add hard negatives (neg) or, "
    "with in_batch_negatives, raise per_device_train_batch_size or batch_tokens"
)


class DivergedError(RuntimeError):
    """The loss is no number any more; no weight was changed by that step."""


class SelfDistillationTrainer(ResumableTrainer):
    """Trains dense, sparse and multi-vector heads together, each taught by their ensemble.

    Everything that transformers' `Trainer` does is there: schedules, accumulation, mixed precision, several devices
    (`accelerate launch`), early stopping, callbacks. What a checkpoint folder holds is a standard M3 checkpoint, and
    what the run needs to go on from there: `train(resume_from_checkpoint=True)`.

    Args:
        encoder: The model to start from: what `M3Encoder.from_pretrained` takes, or an encoder, whose settings (such as
            `mcls`) are those of evaluations on collections.
        args: The settings.
        train_dataset: What to train on.
        eval_dataset: What `evaluate` measures: a BEIR collection (`m3plugins.evaluation.Dataset`; nDCG@10 of each head
            and of their sums), an `M3Dataset` (its losses), or several by name.
        teacher: Whom self-distillation follows; by default the live ensemble, as in the paper.
        callbacks: More of transformers' `TrainerCallback`s; the figures of a `Probe` reach those that report.

    Raises:
        TypeError: `train_dataset` is no `M3Dataset`.
        ValueError: Settings and data do not fit together.
    """

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl
    current_gradient_accumulation_steps: int

    def __init__(
        self,
        encoder: M3Encoder | str | Path,
        args: SelfDistillationArguments,
        train_dataset: M3Dataset | None = None,
        eval_dataset: DevelopmentSet | Mapping[str, DevelopmentSet] | None = None,
        *,
        teacher: Teacher | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.encoder = encoder if isinstance(encoder, M3Encoder) else M3Encoder.from_pretrained(encoder)
        checkpoint = self.encoder.checkpoint
        teacher = teacher or LiveEnsemble()
        check_run(args, checkpoint, train_dataset, teacher)
        set_seed(args.seed)
        self._tokenizer, special = load_tokenizer(checkpoint.folder)
        self.options = args.loss_options(tuple(sorted(special.ids)))
        self.teacher, self._teacher_started = teacher, False
        self.temperatures = {
            name: nn.Parameter(torch.tensor(math.log(self.options.temperature_of(name)))) for name in loss_names(args)
        }
        self.chunk_tokens = args.chunk_tokens
        self._terms = Terms(figures(args), args.device)
        super().__init__(
            model=_model(checkpoint, args, trained_prompts(args, self.encoder.prompts, train_dataset)),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_Steps(self), *callbacks],
        )
        self.callback_handler.callbacks.sort(
            key=lambda callback: not isinstance(callback, (DefaultFlowCallback, Probe))
        )

    # --- data

    def collator_of(self, dataset: M3Dataset) -> M3Collator:
        """What makes batches of a dataset; they have a teacher's scores if something reads them."""
        return M3Collator(
            self.encoder.checkpoint,
            query_max_length=self.args.query_max_length,
            passage_max_length=self.args.passage_max_length,
            prompts=self.model.prompts,
            with_scores=dataset.has_scores and (self.teacher.reads_scores or self.args.teacher_weight > 0),
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of texts of similar length; the same in every run with this seed."""
        dataset = self.train_dataset
        if dataset is None:
            msg = "training needs a train_dataset, as in M3Dataset.from_jsonl(path)"
            raise ValueError(msg)
        return train_loader(dataset, self.args, self._tokenizer, self.collator_of(dataset), self.model.prompts)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], None]:
        """The batches of one optimizer step; their losses are means, so nothing is counted."""
        return list(islice(epoch_iterator, num_batches)), None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    # --- a step

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains to the end of `max_steps` or `num_train_epochs`.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest whole one in `output_dir` (from the
                start if there is none). The run goes on as if it had not stopped.
            **kwargs: As for transformers' `Trainer.train`.

        Raises:
            CheckpointError: The checkpoint is incomplete or damaged.
            DivergedError: The loss became NaN or infinite.
        """
        if resume_from_checkpoint is True:
            found = checkpointing.last_checkpoint(Path(self.args.output_dir))
            resume_from_checkpoint = str(found) if found else None
        elif resume_from_checkpoint:
            checkpointing.verify(Path(resume_from_checkpoint))
        for value in self.temperatures.values():  # the same parameters, which an optimizer may hold already
            value.data = value.data.to(self.args.device)
        self._start_teacher()
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        set_seed(self.args.seed)  # whatever was made between the trainer and its training
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Adds the gradient of one batch; see `grad_cache.step`."""
        model.train()
        batch: Batch = inputs.to(self.args.device)
        most = self.chunk_tokens or _FORWARD_TOKENS["cpu"]
        chunks = Chunks.cut(batch, min(most, _FORWARD_TOKENS.get(self.args.device.type, most)))
        loss = grad_cache.step(
            model,
            chunks,
            partial(self.loss, chunks),
            max_tokens=most,
            backward=self._backward,
            **self._around(model),
        )
        self._average_temperature_gradients()
        share = batch.truncated / (len(batch.queries) + len(batch.passages))
        logged = {f"loss_{name}": term for name, term in loss.terms.items()}
        self._terms.add(logged | {"truncated": loss.total.new_tensor(share)})
        return loss.total.detach() / self.current_gradient_accumulation_steps

    def _around(self, model: nn.Module) -> dict[str, Any]:
        """What goes around the passes of a step."""
        if self.args.world_size > 1:
            return {"hold_sync": partial(self.accelerator.no_sync, model), "agreed": self._agreed}
        return {"one_lookup": self.model.one_lookup}

    def loss(self, chunks: Chunks, pair: Pair) -> M3Loss:
        """The loss of this process' queries over the passages of all processes.

        Raises:
            DivergedError: It is NaN or infinite.
        """
        args, batch = self.args, chunks.batch
        passages, keys = pair.passages, batch.passage_keys
        if self._gathers:
            passages, keys = gather_representations(passages), gather_rows(keys)
        own_only = not args.in_batch_negatives or batch.all_own_passages_only
        if self.model.training and (batch.groups.shape[1] if own_only else len(keys)) < 2:
            warnings.warn(_NO_NEGATIVE, stacklevel=1)
        begun = self.state.global_step >= args.distillation_start_step or not self.model.training
        distilling = args.self_distillation and begun  # an evaluation's losses are the same sum at every step
        learned = {name: value.exp() for name, value in self.temperatures.items()} if args.learn_temperature else None
        loss = m3_loss(
            pair.queries,
            passages,
            self.options,
            groups=batch.groups,
            own_passages_only=batch.own_passages_only,
            absent=masking.repeats(keys),
            false_negatives=self._known_positives(batch, keys) if args.mask_known_positives else None,
            teacher_scores=batch.teacher_scores if args.teacher_weight else None,
            teacher=self._teacher_of(chunks) if distilling else None,
            temperatures=learned,
        )
        if not bool(loss.total.isfinite()):
            terms = ", ".join(f"{name} {float(term):.4g}" for name, term in loss.terms.items())
            raise DivergedError(self._diverged(f"the loss is {float(loss.total.detach())} ({terms})"))
        return loss

    def _known_positives(self, batch: Batch, keys: Tensor) -> Tensor:
        asked, answers = batch.query_keys, batch.positive_keys
        if self._gathers:
            asked, answers = gather_rows(asked), gather_rows(answers)
        return masking.known_positives(batch.query_keys, keys, asked, answers)

    def _start_teacher(self) -> None:
        """Once, with training or with an evaluation before it."""
        if not self._teacher_started:
            self.teacher.start(self.model.to(self.args.device), self.options)
            self._teacher_started = True

    def _teacher_of(self, chunks: Chunks) -> Callable[[Mapping[str, Tensor]], Tensor | None]:
        self._start_teacher()
        with torch.no_grad(), self.accelerator.autocast():
            parts = [self.teacher.encode(texts) for texts in chunks.texts]
            found = [part for part in parts if part is not None]
            pair = chunks.join(found) if found else None
            if pair is not None and self._gathers:
                pair = Pair(pair.queries, gather_representations(pair.passages))

        def scores(student: Mapping[str, Tensor]) -> Tensor | None:
            with torch.no_grad():
                return self.teacher.scores(student, pair, chunks.batch)

        return scores

    @property
    def _gathers(self) -> bool:
        args = self.args  # evaluation is the first process' own
        return args.cross_device_negatives and args.in_batch_negatives and args.world_size > 1 and self.model.training

    def _agreed(self, here: bool) -> bool:
        """Whether it is so in every process."""
        return bool(self._mean_of_processes(torch.tensor(float(here), device=self.args.device)) == 1)

    def _backward(self, total: Tensor) -> None:
        self.accelerator.backward(total / self.current_gradient_accumulation_steps)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called ahead of the optimizer's step; with fp16 the scaler skips a step whose gradient overflows.

        Raises:
            DivergedError: The gradient is NaN or infinite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16 and not math.isfinite(norm):
            raise DivergedError(self._diverged(f"the gradient is {float(norm)}"))
        return norm

    def _diverged(self, finding: str) -> str:
        return (
            f"{finding} at step {self.state.global_step + 1}; the weights are those before it. "
            "Lower learning_rate, raise temperature, or look for damaged weights; then resume"
        )

    def _average_temperature_gradients(self) -> None:
        """What DDP does for the parameters inside the model."""
        if self.args.learn_temperature and self.args.world_size > 1 and self.accelerator.sync_gradients:
            for parameter in self.temperatures.values():
                if parameter.grad is not None:
                    parameter.grad = self._mean_of_processes(parameter.grad)

    def _measure_chunks(self) -> None:
        """Called when the model, its wrappers and its settings are those of the steps."""
        if self.chunk_tokens is not None:
            return
        precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        longest = max(self.args.query_max_length, self.args.passage_max_length)
        self.chunk_tokens = chunk_tokens(
            self.model.train(), max_length=longest, device=self.args.device, autocast=precision
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Parameter groups of the encoder, the heads and the temperatures; biases and norms do not decay."""
        if self.optimizer is None:
            args = self.args
            kind, settings = self.get_optimizer_cls_and_kwargs(args, self.model)
            if own := {"params", "model", "optimizer_dict"} & settings.keys():
                msg = f"optim={args.optim} is not supported: it makes its parameter groups itself ({', '.join(own)})"
                raise ValueError(msg)
            settings["lr"] = args.rate_of("", self.model.config.hidden_size)
            decaying = set(self.get_decay_parameter_names(self.model))
            self.optimizer = kind(parameter_groups(self.model, self.temperatures.values(), args, decaying), **settings)
        return self.optimizer

    # --- what is told

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every term of the loss since the last log, and the temperatures that are learned."""
        if "loss" in logs:
            logs |= {name: total / count for name, (total, count) in self._terms.totals().items() if count}
            self._terms.clear()
            if self.args.learn_temperature:
                logs |= {
                    f"temperature_{name}": float(value.detach().exp()) for name, value in self.temperatures.items()
                }
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the model as it is; the first process does, and tells the others.

        Returns:
            Of a collection: `eval_dense_ndcg@10`, `eval_sparse_ndcg@10`, `eval_multi_vector_ndcg@10`,
            `eval_ds_ndcg@10`, `eval_all_ndcg@10`. Of an `M3Dataset`: `eval_loss` and a loss per head. Of several:
            those of each as `eval_NAME_…`, and the means over the collections as `eval_…`.
        """
        found: list[dict[str, float]] = [{}]
        if self.is_world_process_zero():
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            found = [evaluate_model(self, dataset, metric_key_prefix)]
        if self.args.world_size > 1:
            dist.broadcast_object_list(found, src=0)
        metrics = found[0]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Steps(TrainerCallback):
    """After an optimizer step: the teacher follows, and the gradients that the model does not hold are cleared."""

    def __init__(self, trainer: SelfDistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._take_up_log()
        self._trainer._measure_chunks()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if isinstance(loader := kwargs["train_dataloader"], EpochLoader):
            loader.set_epoch(int(state.epoch or 0))  # transformers before 5.18 does not where it skips batches

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trainer.teacher.update(state.global_step)
        for parameter in self._trainer.temperatures.values():
            parameter.grad = None


def _model(checkpoint: Checkpoint, args: SelfDistillationArguments, prompts: Prompts) -> M3Model:
    cache = StateCache(args.state_cache_bytes) if args.state_cache_bytes else None
    frozen = args.train_encoder == "frozen"
    model = M3Model(checkpoint, heads=args.heads, freeze_encoder=frozen, state_cache=cache, prompts=prompts)
    if args.train_encoder == "lora":
        adapters.add_lora(model.encoder, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    return model
