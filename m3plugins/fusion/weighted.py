"""Weighted fusion: M3's own, the raw weighted sum of the heads' scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from m3plugins.encoding.output import HEADS, Head
from m3plugins.scoring.heads import HeadScores


@dataclass(frozen=True, kw_only=True)
class HybridWeights:
    """How much each head counts. The defaults are the paper's for MIRACL and MKQA (1 / 0.3 / 1).

    For long documents the paper uses 0.15 / 0.5 / 0.35. A head of weight 0 is not computed.

    Raises:
        ValueError: If a weight is negative or not finite, or all are 0.
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 1.0

    def __post_init__(self) -> None:
        for head in HEADS:
            weight = getattr(self, head)
            if not (math.isfinite(weight) and weight >= 0):
                msg = f"weight of {head} must be a finite number >= 0, got {weight}"
                raise ValueError(msg)
        if not self.heads:
            msg = "at least one head must have a weight > 0"
            raise ValueError(msg)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that count, in canonical order."""
        return tuple(head for head in HEADS if getattr(self, head) > 0)


def weighted_sum(scores: HeadScores, weights: HybridWeights) -> float:
    """The raw weighted sum, not divided by the sum of the weights; an unscored head adds nothing.

    Example:
        >>> weighted_sum(HeadScores(dense=0.5, sparse=1.0, multi_vector=0.25), HybridWeights())
        1.05
    """
    pairs = ((getattr(weights, head), getattr(scores, head)) for head in HEADS)
    return sum((weight * score for weight, score in pairs if weight and score is not None), 0.0)
