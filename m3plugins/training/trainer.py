"""M3's joint training with self-distillation, on the Trainer of transformers."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training import adapters, checkpointing, grad_cache, masking
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.batch import Batch
from m3plugins.training.collator import Draws, M3Collator
from m3plugins.training.dataset import M3Dataset
from m3plugins.training.development import DevelopmentSet, evaluate_model
from m3plugins.training.gathering import gather_representations, gather_rows
from m3plugins.training.grad_cache import Chunks, Pair
from m3plugins.training.lengths import estimated_lengths
from m3plugins.training.losses import M3Loss, m3_loss
from m3plugins.training.memory import chunk_tokens
from m3plugins.training.model import M3Model
from m3plugins.training.sampling import LengthGroupedBatches
from m3plugins.training.state_cache import StateCache
from m3plugins.training.teachers import LiveEnsemble, Teacher

logger = logging.getLogger(__name__)

_ADAPTERS, _TEACHER, _TEMPERATURES, _RUN = (
    "adapters.safetensors",
    "teacher.safetensors",
    "temperatures.safetensors",
    "run.json",
)
_FORWARD_TOKENS = {"cpu": 1024}
"""Padded tokens encoded together: short runs of texts of one length waste little on padding."""


class DivergedError(RuntimeError):
    """The loss is no number any more; no weight was changed by that step."""


class SelfDistillationTrainer(Trainer):
    """Trains dense, sparse and multi-vector heads together, each taught by their ensemble.

    Everything that transformers' `Trainer` does is there: schedules, accumulation, mixed precision, several devices
    (`accelerate launch`), early stopping, callbacks. What a checkpoint folder holds is a standard M3 checkpoint, and
    what the run needs to go on from there: `train(resume_from_checkpoint=True)`.

    Args:
        encoder: The model to start from: an encoder, or what `M3Encoder.from_pretrained` takes.
        args: The settings.
        train_dataset: What to train on.
        eval_dataset: What `evaluate` measures: a BEIR collection (`m3plugins.evaluation.Dataset`; nDCG@10 of each head
            and of their sums), an `M3Dataset` (its losses), or several by name.
        teacher: Whom self-distillation follows; by default the live ensemble, as in the paper.
        callbacks: More of transformers' `TrainerCallback`s.

    Raises:
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
        _check(args, checkpoint, train_dataset)
        set_seed(args.seed)
        self._tokenizer, special = load_tokenizer(checkpoint.folder)
        self.options = args.loss_options(tuple(sorted(special.ids)))
        self.teacher = teacher or LiveEnsemble()
        self.temperatures = {
            name: nn.Parameter(torch.tensor(math.log(self.options.temperature_of(name)))) for name in _loss_names(args)
        }
        self.chunk_tokens = args.chunk_tokens
        self._terms: dict[str, list[Tensor]] = {}
        self._unlogged: dict[str, Any] | None = None
        super().__init__(
            model=_model(checkpoint, args),
            args=args,
            data_collator=M3Collator(
                checkpoint,
                query_max_length=args.query_max_length,
                passage_max_length=args.passage_max_length,
                with_scores=train_dataset is not None and train_dataset.has_scores,
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_Steps(self), *callbacks],
        )

    # --- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of texts of similar length; the same in every run with this seed."""
        args, dataset = self.args, self.train_dataset
        if dataset is None:
            msg = "training needs a train_dataset, as in M3Dataset.from_jsonl(path)"
            raise ValueError(msg)
        lengths = estimated_lengths(
            dataset,
            self._tokenizer,
            max_query_length=args.query_max_length,
            max_passage_length=args.passage_max_length,
            group_size=1 + args.negatives,
        )
        batches = LengthGroupedBatches(
            lengths,
            dataset.sources.rows,
            batch_size=args.per_device_train_batch_size,
            token_budget=args.batch_tokens,
            same_source=args.same_source,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            world_size=args.world_size,
            drop_last=args.dataloader_drop_last,
        )
        workers = args.dataloader_num_workers
        return _EpochLoader(
            Draws(dataset, negatives=args.negatives, seed=args.seed),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

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
        set_seed(self.args.seed)  # whatever was made between the trainer and its training
        device = self.args.device
        for value in self.temperatures.values():  # the same parameters, which an optimizer may hold already
            value.data = value.data.to(device)
        self.teacher.start(self.model.to(device), self.options)
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        if self.chunk_tokens is None:
            self.chunk_tokens = self._measured_chunk_tokens()
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
            hold_sync=partial(self.accelerator.no_sync, model) if self.args.world_size > 1 else nullcontext,
        )
        self._average_temperature_gradients()
        share = batch.truncated / (len(batch.queries) + len(batch.passages))
        logged = {f"loss_{name}": term for name, term in loss.terms.items()}
        for name, value in (logged | {"truncated": loss.total.new_tensor(share)}).items():
            self._terms.setdefault(name, []).append(value)
        return loss.total.detach() / self.current_gradient_accumulation_steps

    def loss(self, chunks: Chunks, pair: Pair) -> M3Loss:
        """The loss of this process' queries over the passages of all processes.

        Raises:
            DivergedError: It is NaN or infinite.
        """
        args, batch = self.args, chunks.batch
        passages, keys = pair.passages, batch.passage_keys
        if self._gathers:
            passages, keys = gather_representations(passages), gather_rows(keys)
        excluded = masking.repeats(batch, keys, in_batch_negatives=args.in_batch_negatives)
        if args.mask_known_positives:
            excluded = excluded | masking.known_positives(batch, keys)
        distilling = args.self_distillation and self.state.global_step >= args.distillation_start_step
        learned = {name: value.exp() for name, value in self.temperatures.items()} if args.learn_temperature else None
        loss = m3_loss(
            pair.queries,
            passages,
            self.options,
            group_size=batch.group_size,
            false_negatives=excluded,
            teacher_scores=batch.teacher_scores if args.teacher_weight else None,
            teacher=self._teacher_of(chunks) if distilling else None,
            temperatures=learned,
        )
        if not bool(loss.total.isfinite()):
            terms = ", ".join(f"{name} {float(term):.4g}" for name, term in loss.terms.items())
            raise DivergedError(self._diverged(f"the loss is {float(loss.total)} ({terms})"))
        return loss

    def _teacher_of(self, chunks: Chunks) -> Callable[[Mapping[str, Tensor]], Tensor | None]:
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

    def _measured_chunk_tokens(self) -> int:
        precision = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        longest = max(self.args.query_max_length, self.args.passage_max_length)
        return chunk_tokens(self.model.train(), max_length=longest, device=self.args.device, autocast=precision)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One parameter group for the encoder, one for the heads and temperatures; biases and norms do not decay."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decaying = set(self.get_decay_parameter_names(self.model))
            head_rate = self.args.head_learning_rate or self.args.learning_rate
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    rate = self.args.learning_rate if name.startswith("encoder.") else head_rate
                    decay = self.args.weight_decay if name in decaying else 0.0
                    groups.setdefault((rate, decay), []).append(parameter)
            if self.args.learn_temperature:
                groups.setdefault((head_rate, 0.0), []).extend(self.temperatures.values())
            self.optimizer = kind(
                [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()],
                **settings,
            )
        return self.optimizer

    # --- what is told

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every term of the loss since the last log, and the temperatures that are learned."""
        if "loss" in logs:
            logs |= {name: fmean(values) for name, values in self._terms_of_processes().items()}
            self._terms.clear()
            if self.args.learn_temperature:
                logs |= {f"temperature_{name}": float(value.exp()) for name, value in self.temperatures.items()}
        super().log(logs, start_time)

    def _terms_of_processes(self) -> dict[str, list[float]]:
        """The terms of every batch since the last log, means over all processes."""
        if not self._terms:
            return {}
        flat = torch.cat([torch.stack(terms).float() for terms in self._terms.values()])
        values = iter(self._mean_of_processes(flat).tolist())
        return {name: list(islice(values, len(terms))) for name, terms in self._terms.items()}

    def _mean_of_processes(self, values: Tensor) -> Tensor:
        if self.args.world_size > 1:
            dist.all_reduce(values)
        return values / float(self.args.world_size)

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

    # --- checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:
            with checkpointing.staged(folder) as building:
                self.model.save(building)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves everything, then seals it: what has no manifest was cut off and is never resumed from."""
        output, limit = Path(self._get_output_dir(trial)), self.args.save_total_limit
        folder = output / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpointing.discard(folder)
        self._wait()
        self.args.save_total_limit = None  # older ones go when this one is sealed
        try:
            super()._save_checkpoint(model, trial)
            unlogged = {
                "since": self._globalstep_last_logged,
                "loss": float(self._mean_of_processes(self._tr_loss.clone())),
                "terms": self._terms_of_processes(),
            }
            if self.args.should_save:
                self._save_run(folder, unlogged)
            self._wait()
            if self.args.should_save:
                checkpointing.seal(folder)
        except (OSError, RuntimeError, SafetensorError) as err:  # torch and safetensors have their own of a full disk
            checkpointing.discard(folder)
            free, kept = shutil.disk_usage(output).free, checkpointing.newest(output)
            msg = (
                f"checkpoint {folder} could not be saved: {err}; the disk has {free:,} bytes free; "
                f"the last whole checkpoint is {kept or 'none'}"
            )
            raise OSError(msg) from err
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit:
            checkpointing.prune(output, limit, best=self.state.best_model_checkpoint)

    def _save_run(self, folder: Path, unlogged: Mapping[str, Any]) -> None:
        if self.args.train_encoder == "lora":
            save_file(_contiguous(self.model.trainable_state()), folder / _ADAPTERS)
        if state := self.teacher.state_dict():
            save_file(_contiguous(state), folder / _TEACHER)
        save_file({name: value.detach() for name, value in self.temperatures.items()}, folder / _TEMPERATURES)
        settings = json.loads(self.args.to_json_string())
        run = {"chunk_tokens": self.chunk_tokens, "arguments": settings, "unlogged": unlogged}
        (folder / _RUN).write_text(json.dumps(run, indent=2), encoding="utf-8")

    def _restore(self, folder: Path) -> None:
        """What transformers' trainer does not know of: teacher, temperatures, the size of the chunks."""
        if (folder / _TEACHER).is_file():
            self.teacher.load_state_dict(load_file(folder / _TEACHER))
        for name, value in load_file(folder / _TEMPERATURES).items():
            self.temperatures[name].data.copy_(value)
        run = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        self.chunk_tokens = self.chunk_tokens or run["chunk_tokens"]
        self._unlogged = run["unlogged"]
        checkpointing.warn_of_changes(run["arguments"], json.loads(self.args.to_json_string()))

    def _take_up_log(self) -> None:
        """What the run that is resumed had not logged yet, so that its next log is what it would have been."""
        self._terms.clear()
        if self._unlogged is not None:
            self._globalstep_last_logged = self._unlogged["since"]
            self._tr_loss += self._unlogged["loss"]
            self._terms = {
                name: [torch.tensor(value, device=self.args.device) for value in values]
                for name, values in self._unlogged["terms"].items()
            }
            self._unlogged = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpointing.verify(folder)
        if (folder / _ADAPTERS).is_file():
            state = load_file(folder / _ADAPTERS)
        else:
            state = M3Model(Checkpoint(folder), heads=self.args.heads).state_dict()
        self.model.load_state_dict(state, strict=not (folder / _ADAPTERS).is_file())

    def _load_best_model(self) -> None:
        logger.info("the best model is that of %s", self.state.best_model_checkpoint)
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _wait(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()


class _EpochLoader(DataLoader[Any]):
    """A loader that tells its batches which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class _Steps(TrainerCallback):
    """After an optimizer step: the teacher follows, and the gradients that the model does not hold are cleared."""

    def __init__(self, trainer: SelfDistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer._take_up_log()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trainer.teacher.update(state.global_step)
        for parameter in self._trainer.temperatures.values():
            parameter.grad = None


def _model(checkpoint: Checkpoint, args: SelfDistillationArguments) -> M3Model:
    cache = StateCache(args.state_cache_bytes) if args.state_cache_bytes else None
    frozen = args.train_encoder == "frozen"
    model = M3Model(checkpoint, heads=args.heads, freeze_encoder=frozen, state_cache=cache)
    if args.train_encoder == "lora":
        adapters.add_lora(model.encoder, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    return model


def _loss_names(args: SelfDistillationArguments) -> list[str]:
    return [*args.heads, "ensemble"] if len(args.heads) > 1 else list(args.heads)


def _check(args: SelfDistillationArguments, checkpoint: Checkpoint, dataset: M3Dataset | None) -> None:
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
        msg = f"one process cannot train on {args.n_gpu} GPUs; start one for each with `accelerate launch`"
        raise ValueError(msg)
    if args.teacher_weight and dataset is not None and not dataset.has_scores:
        msg = f"teacher_weight={args.teacher_weight} needs pos_scores and neg_scores in every line; some lack them"
        raise ValueError(msg)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}
