"""The loss that a run minimises: over the passages of all processes, with a teacher's targets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.loss import masking
from m3plugins.training.loss.gathering import gather_representations, gather_rows
from m3plugins.training.loss.grad_cache import Chunks, Pair
from m3plugins.training.loss.joint import M3Loss, TeacherLogits, m3_loss
from m3plugins.training.loss.options import LossOptions
from m3plugins.training.loss_log import loss_names
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.teachers.teacher import Teacher

_NO_NEGATIVE = (
    "the queries of a batch have their positives alone, so nothing is learnt from it; add hard negatives (neg) or, "
    "with in_batch_negatives, raise per_device_train_batch_size or batch_tokens"
)


class DivergedError(RuntimeError):
    """Raised when the loss or its gradient is NaN or infinite; that step changed no weight."""

    @classmethod
    def at(cls, step: int, finding: str) -> DivergedError:
        """Makes the error for a finding at a step."""
        return cls(
            f"{finding} at step {step}; the weights are those before it. "
            "Lower learning_rate, raise temperature, or look for damaged weights; then resume"
        )


class Objective:
    """Computes the loss of batches.

    Args:
        args: Settings of the run.
        options: Settings of the loss.
        model: Model in training.
        teacher: Teacher of self-distillation.

    Attributes:
        temperatures: Logarithms of the temperatures, by loss; trained with `learn_temperature`.
    """

    def __init__(self, args: SelfDistillationArguments, options: LossOptions, model: M3Model, teacher: Teacher) -> None:
        self._args, self._options, self._model = args, options, model
        self._teacher, self._teacher_started = teacher, False
        self.temperatures = {
            name: nn.Parameter(torch.tensor(math.log(options.temperature_of(name)))) for name in loss_names(args)
        }

    def start_teacher(self) -> None:
        """Starts the teacher once, with training or with an evaluation before it."""
        if not self._teacher_started:
            self._teacher.start(self._model.to(self._args.device), self._options)
            self._teacher_started = True

    def loss(
        self, chunks: Chunks, pair: Pair, *, step: int, autocast: Callable[[], AbstractContextManager[None]]
    ) -> M3Loss:
        """Returns the loss of this process' queries over the passages of all processes.

        Args:
            chunks: Batch, cut into chunks.
            pair: Representations of the batch.
            step: Number of optimizer steps made.
            autocast: Context that sets the precision of the teacher's pass.

        Raises:
            DivergedError: The loss is NaN or infinite.
        """
        args, batch, training = self._args, chunks.batch, self._model.training
        passages, keys = pair.passages, batch.passage_keys
        if self._gathers:
            passages, keys = gather_representations(passages), gather_rows(keys)
        own_only = not args.in_batch_negatives or batch.all_own_passages_only
        if training and (batch.groups.shape[1] if own_only else len(keys)) < 2:
            warnings.warn(_NO_NEGATIVE, stacklevel=1)
        begun = step >= args.distillation_start_step or not training
        distilling = args.self_distillation and begun  # an evaluation's losses are the same sum at every step
        learned = {name: value.exp() for name, value in self.temperatures.items()} if args.learn_temperature else None
        loss = m3_loss(
            pair.queries,
            passages,
            self._options,
            groups=batch.groups,
            own_passages_only=batch.own_passages_only,
            absent=masking.repeats(keys),
            false_negatives=self._known_positives(chunks, keys) if args.mask_known_positives else None,
            teacher_scores=batch.teacher_scores if args.teacher_weight else None,
            teacher=self._teacher_of(chunks, autocast) if distilling else None,
            temperatures=learned,
        )
        if not bool(loss.total.isfinite()):
            terms = ", ".join(f"{name} {float(term):.4g}" for name, term in loss.terms.items())
            raise DivergedError.at(step + 1, f"the loss is {float(loss.total.detach())} ({terms})")
        return loss

    def _known_positives(self, chunks: Chunks, keys: Tensor) -> Tensor:
        batch = chunks.batch
        asked, answers = batch.query_keys, batch.positive_keys
        if self._gathers:
            asked, answers = gather_rows(asked), gather_rows(answers)
        return masking.known_positives(batch.query_keys, keys, asked, answers)

    def _teacher_of(self, chunks: Chunks, autocast: Callable[[], AbstractContextManager[None]]) -> TeacherLogits:
        self.start_teacher()
        with torch.no_grad(), autocast():
            parts = [self._teacher.encode(texts) for texts in chunks.texts]
            found = [part for part in parts if part is not None]
            pair = chunks.join(found) if found else None
            if pair is not None and self._gathers:
                pair = Pair(pair.queries, gather_representations(pair.passages))

        def scores(student: Mapping[str, Tensor]) -> Tensor | None:
            with torch.no_grad():
                return self._teacher.scores(student, pair, chunks.batch)

        return scores

    @property
    def _gathers(self) -> bool:
        args = self._args  # evaluation is the first process' own
        return args.cross_device_negatives and args.in_batch_negatives and args.world_size > 1 and self._model.training
