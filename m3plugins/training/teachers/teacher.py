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
        reads_scores: `scores` reads `batch.teacher_scores`, so every example must have them.
    """

    reads_scores: bool = False

    def start(self, model: M3Model, options: LossOptions) -> None:
        """Called once, before the first step or evaluation, with the model to be trained and its loss' settings."""
        self.model, self.options = model, options

    def encode(self, chunk: TokenBatch) -> Representations | None:
        """The teacher's own view of b texts, computed without gradient; None if it needs none."""
        return None

    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        """The teacher's logits (Q, C), whose softmax over the candidates is the target of every head.

        Args:
            student: Logits (Q, C) of the heads and of their `ensemble`, temperature applied, -inf for what is no
                candidate. The first P columns are the batch's own passages, in their order; those of other processes
                follow.
            representations: What `encode` gave for the queries and for the C candidates.
            batch: The batch of this process.

        Returns:
            Floating logits; -inf leaves a candidate out of this comparison. None: nothing to teach in this batch.
        """
        raise NotImplementedError

    def update(self, step: int) -> None:
        """Called after every optimizer step."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep of the teacher."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
