"""The interface of a teacher, which gives self-distillation its target.

A teacher of your own is a few lines:

    class Lexical(Teacher):
        def scores(self, student, representations, batch):
            return student["sparse"]
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from m3plugins.training.data.batch import Batch, TokenBatch
from m3plugins.training.loss.grad_cache import Pair
from m3plugins.training.loss.options import LossOptions
from m3plugins.training.loss.representations import Representations
from m3plugins.training.model.m3_model import M3Model


class Teacher:
    """Gives each query a distribution over the candidates of its batch. Every method but `scores` may be left out.

    Attributes:
        reads_scores: True if `scores` reads `batch.teacher_scores`; every example must have them then.
    """

    reads_scores: bool = False

    def start(self, model: M3Model, options: LossOptions) -> None:
        """Prepares for the run, once, before its first step or evaluation.

        Args:
            model: Model to be trained.
            options: Settings of its loss.
        """
        self.model, self.options = model, options

    def encode(self, chunk: TokenBatch) -> Representations | None:
        """Returns the teacher's own representations of texts, without gradient; None if it needs none."""
        return None

    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        """Returns the teacher's logits (Q, C), whose softmax over the candidates is the target of every head.

        Args:
            student: Logits (Q, C) of the heads and of their `ensemble`, temperature applied, -inf for what is no
                candidate. The first P columns are the batch's own passages, in their order; those of other processes
                follow.
            representations: Representations that `encode` returned for the queries and for the C candidates.
            batch: Batch of this process.

        Returns:
            Floating logits; -inf leaves a candidate out of this comparison. None: nothing to teach in this batch.
        """
        raise NotImplementedError

    def update(self, step: int) -> None:
        """Follows the model after every optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the state that a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores the state that `state_dict` returned."""
