"""M3's joint training with self-distillation, on the Trainer of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    Trainer,
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
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.callbacks import Probe
from m3plugins.training.checkpoint.checkpointer import Checkpointer
from m3plugins.training.checkpoint.run_state import Unlogged
from m3plugins.training.checks import check_run
from m3plugins.training.data.batch import Batch
from m3plugins.training.data.collator import M3Collator
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.development import DevelopmentSet, Evaluator
from m3plugins.training.loader import EpochLoader, train_loader
from m3plugins.training.loss import grad_cache
from m3plugins.training.loss.grad_cache import Chunks, Pair, StepContext
from m3plugins.training.loss.joint import M3Loss
from m3plugins.training.loss_log import LossLog, figures
from m3plugins.training.model import adapters
from m3plugins.training.model.live_encoder import live_encoder
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.model.memory import chunk_tokens
from m3plugins.training.model.parameter_groups import parameter_groups
from m3plugins.training.model.prompts import trained_prompts
from m3plugins.training.model.state_cache import StateCache
from m3plugins.training.objective import DivergedError, Objective
from m3plugins.training.processes import mean_of_processes
from m3plugins.training.teachers.ensembles import LiveEnsemble
from m3plugins.training.teachers.teacher import Teacher

_FORWARD_TOKENS = {"cpu": 1024}
"""Number of padded tokens encoded together: short runs of texts of one length waste little on padding."""


class SelfDistillationTrainer(Trainer):
    """Trains dense, sparse and multi-vector heads together, each taught by their ensemble.

    All features of transformers' `Trainer` are there: schedules, accumulation, mixed precision, several devices
    (`accelerate launch`), early stopping, callbacks. A checkpoint folder holds a standard M3 checkpoint, and the state
    from which the run continues: `train(resume_from_checkpoint=True)`.

    Args:
        encoder: Model to start from: a name for `M3Encoder.from_pretrained`, or an encoder, whose settings (such as
            `mcls`) are those of evaluations on collections.
        args: Settings of the run.
        train_dataset: Data to train on.
        eval_dataset: Development set that `evaluate` measures: a BEIR collection (`m3plugins.evaluation.Dataset`;
            nDCG@10 of each head and of their sums), an `M3Dataset` (its losses), or several by name.
        teacher: Teacher of self-distillation; by default the live ensemble, as in the paper.
        callbacks: Further `TrainerCallback`s of transformers; those that report get the figures of a `Probe`.

    Raises:
        TypeError: `train_dataset` is no `M3Dataset`.
        ValueError: Settings and data do not fit together.
    """

    args: SelfDistillationArguments
    model: M3Model
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
        self.teacher = teacher
        self.chunk_tokens = args.chunk_tokens
        self._log = LossLog(figures(args), args.device)
        self._unlogged: Unlogged | None = None
        super().__init__(
            model=_model(checkpoint, args, trained_prompts(args, self.encoder.prompts, train_dataset)),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_Steps(self), *callbacks],
        )
        self._objective = Objective(args, self.options, self.model, teacher)
        self.temperatures = self._objective.temperatures
        self._checkpointer = Checkpointer(args, self.model, teacher, self.temperatures)
        self.callback_handler.callbacks.sort(
            key=lambda callback: not isinstance(callback, (DefaultFlowCallback, Probe))
        )

    # --- data

    def collator_of(self, dataset: M3Dataset) -> M3Collator:
        """Returns the collator of a dataset; its batches have a teacher's scores if something reads them."""
        return M3Collator(
            self.encoder.checkpoint,
            query_max_length=self.args.query_max_length,
            passage_max_length=self.args.passage_max_length,
            prompts=self.model.prompts,
            with_scores=dataset.columns.has_scores and (self.teacher.reads_scores or self.args.teacher_weight > 0),
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Returns batches of texts of similar length; the same in every run with this seed."""
        dataset = self.train_dataset
        if dataset is None:
            msg = "training needs a train_dataset, as in M3Dataset.from_jsonl(path)"
            raise ValueError(msg)
        return train_loader(dataset, self.args, self._tokenizer, self.collator_of(dataset), self.model.prompts)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], None]:
        """Returns the batches of one optimizer step; their losses are means, so nothing is counted."""
        return list(islice(epoch_iterator, num_batches)), None

    def floating_point_ops(self, inputs: Any) -> int:
        """Returns 0: operations are not counted."""
        return 0

    # --- a step

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains to the end of `max_steps` or `num_train_epochs`.

        Args:
            resume_from_checkpoint: Checkpoint folder, or True for the newest whole one in `output_dir` (from the
                start if there is none). The run continues as if it had not stopped.
            **kwargs: Further arguments of transformers' `Trainer.train`.

        Raises:
            CheckpointError: The checkpoint is incomplete or damaged.
            DivergedError: The loss became NaN or infinite.
        """
        found = self._checkpointer.find(resume_from_checkpoint)
        for value in self.temperatures.values():  # the same parameters, which an optimizer may hold already
            value.data = value.data.to(self.args.device)
        self._objective.start_teacher()
        if found:
            run = self._checkpointer.restore(found, self.train_dataset)
            self.chunk_tokens = self.chunk_tokens or run.chunk_tokens
            self._unlogged = run.unlogged
        set_seed(self.args.seed)  # whatever was made between the trainer and its training
        return super().train(resume_from_checkpoint=str(found) if found else None, **kwargs)

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
            context=self._context(model),
        )
        self._average_temperature_gradients()
        share = batch.truncated / (len(batch.queries) + len(batch.passages))
        logged = {f"loss_{name}": term for name, term in loss.terms.items()}
        self._log.add(logged | {"truncated": loss.total.new_tensor(share)})
        return loss.total.detach() / self.current_gradient_accumulation_steps

    def _context(self, model: nn.Module) -> StepContext:
        if self.args.world_size > 1:
            hold_sync = partial(self.accelerator.no_sync, model)
            return StepContext(backward=self._backward, hold_sync=hold_sync, agreed=self._agreed)
        return StepContext(backward=self._backward, one_lookup=self.model.one_lookup)

    def loss(self, chunks: Chunks, pair: Pair) -> M3Loss:
        """Returns the loss of this process' queries over the passages of all processes.

        Raises:
            DivergedError: The loss is NaN or infinite.
        """
        return self._objective.loss(chunks, pair, step=self.state.global_step, autocast=self.accelerator.autocast)

    def _agreed(self, here: bool) -> bool:
        """Returns True if it is so in every process."""
        return bool(mean_of_processes(torch.tensor(float(here), device=self.args.device)) == 1)

    def _backward(self, total: Tensor) -> None:
        self.accelerator.backward(total / self.current_gradient_accumulation_steps)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Checks the gradient ahead of the optimizer's step; with fp16 the scaler skips a step that overflows.

        Raises:
            DivergedError: The gradient is NaN or infinite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16 and not math.isfinite(norm):
            raise DivergedError.at(self.state.global_step + 1, f"the gradient is {float(norm)}")
        return norm

    def _average_temperature_gradients(self) -> None:
        """Averages over the processes, as DDP does for the parameters inside the model."""
        if self.args.learn_temperature and self.args.world_size > 1 and self.accelerator.sync_gradients:
            for parameter in self.temperatures.values():
                if parameter.grad is not None:
                    parameter.grad = mean_of_processes(parameter.grad)

    def _measure_chunks(self) -> None:
        """Measures `chunk_tokens`, when the model, its wrappers and its settings are those of the steps."""
        if self.chunk_tokens is not None:
            return
        precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        longest = max(self.args.query_max_length, self.args.passage_max_length)
        self.chunk_tokens = chunk_tokens(
            self.model.train(), max_length=longest, device=self.args.device, autocast=precision
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the optimizer, with groups of encoder, heads and temperatures; biases and norms do not decay."""
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
        """Adds the mean of every term of the loss since the last log, and the learned temperatures."""
        if "loss" in logs:
            logs |= {name: total / count for name, (total, count) in self._log.totals().items() if count}
            self._log.clear()
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
        """Measures the model as it is, in the first process, and sends the metrics to the others.

        Returns:
            For a collection `eval_dense_ndcg@10`, `eval_sparse_ndcg@10`, `eval_multi_vector_ndcg@10`,
            `eval_ds_ndcg@10` and `eval_all_ndcg@10`; for an `M3Dataset` `eval_loss` and a loss per head; for several
            sets those of each as `eval_NAME_…`, and their means as `eval_…`.
        """
        found: list[dict[str, float]] = [{}]
        if self.is_world_process_zero():
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            encoder = live_encoder(self.model, self.encoder)
            evaluator = Evaluator(self.args, encoder, self.collator_of, self._evaluation_loss)
            found = [evaluator.evaluate(dataset, metric_key_prefix)]
        if self.args.world_size > 1:
            dist.broadcast_object_list(found, src=0)
        metrics = found[0]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluation_loss(self, batch: Batch) -> M3Loss:
        self.model.eval()
        chunks = Chunks.cut(batch.to(self.args.device), self.chunk_tokens or 4096)
        with self.accelerator.autocast():
            pair = chunks.join([part for texts in chunks.texts for part in self.model([texts])])
        return self.loss(chunks, pair)

    # --- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self._checkpointer.save_model(Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output = Path(self._get_output_dir(trial))
        folder = output / f"checkpoint-{self.state.global_step}"
        with self._checkpointer.sealed(folder):
            super()._save_checkpoint(model, trial)
            loss = float(mean_of_processes(self._tr_loss))
            unlogged = Unlogged(self._globalstep_last_logged, loss, self._log.totals())
            self._checkpointer.save_run(folder, self.train_dataset, unlogged, self.chunk_tokens)
        self._checkpointer.prune(output, best=self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._checkpointer.load_weights(Path(resume_from_checkpoint))  # `train` has verified it

    def _load_best_model(self) -> None:
        self._checkpointer.load_best(Path(str(self.state.best_model_checkpoint)))

    def _resume_log(self) -> None:
        self._log.clear()
        if self._unlogged is not None:
            self._globalstep_last_logged = self._unlogged.since
            self._tr_loss += self._unlogged.loss
            if self.args.process_index == 0:  # they are of all processes
                self._log.resume(self._unlogged.terms)
            self._unlogged = None


class _Steps(TrainerCallback):
    """Hooks of the trainer into transformers' training loop."""

    def __init__(self, trainer: SelfDistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._resume_log()
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
