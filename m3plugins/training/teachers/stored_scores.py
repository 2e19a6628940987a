"""A teacher whose scores are in the data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m3plugins.training.data.batch import Batch
from m3plugins.training.loss.grad_cache import Pair
from m3plugins.training.loss.joint import in_columns
from m3plugins.training.teachers.teacher import Teacher


class StoredScores(Teacher):
    """The data's own `pos_scores` and `neg_scores`, of a cross-encoder or of BM25, over each query's group.

    Args:
        temperature: Divisor of the scores.
    """

    reads_scores = True

    def __init__(self, temperature: float = 1.0) -> None:
        self._temperature = temperature

    def scores(self, student: Mapping[str, Tensor], representations: Pair | None, batch: Batch) -> Tensor | None:
        """Returns the stored scores, -inf for the passages of other queries; None where the batch has none."""
        if batch.teacher_scores is None:
            return None
        nothing = torch.full_like(next(iter(student.values())), float("-inf"))
        return in_columns(batch.groups, (batch.teacher_scores / self._temperature).to(nothing), nothing)
