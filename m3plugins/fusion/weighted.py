"""Weighted fusion: M3's own, the raw weighted sum of the heads' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from m3plugins.encoding.output import HEADS, Head
from m3plugins.scoring.heads import SIGNALS, HeadScores, Signal


@dataclass(frozen=True, kw_only=True)
class HybridWeights:
    """The weights of the heads' scores. The defaults are the paper's for MIRACL and MKQA (1 / 0.3 / 1).

    For long documents the paper uses 0.15 / 0.5 / 0.35. A head of weight 0 is not computed.

    Attributes:
        dense: Weight of the dense score, in [-1, 1].
        sparse: Weight of the sparse score, >= 0.
        multi_vector: Weight of the multi-vector score, in [-1, 1].
        bm25: Weight of the engine's BM25 score, where the index has it; the score has no upper bound (10 to 30 is
            usual), so a weight that suits is small, about 0.02.

    Raises:
        TypeError: If a weight is not a number.
        ValueError: If a weight is negative or not finite, or those of M3's heads are all 0.
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 1.0
    bm25: float = 0.0

    def __post_init__(self) -> None:
        for signal in SIGNALS:
            weight = getattr(self, signal)
            if isinstance(weight, bool) or not isinstance(weight, Real):
                msg = f"weight of {signal} must be a number, got {weight!r}; 0 leaves {signal} out"
                raise TypeError(msg)
            if not 0 <= float(weight) < math.inf:
                msg = f"weight of {signal} must be a finite number >= 0, got {weight}"
                raise ValueError(msg)
        if not self.heads:
            msg = f"at least one of the heads {', '.join(HEADS)} must have a weight > 0; bm25 joins them"
            raise ValueError(msg)

    @property
    def heads(self) -> tuple[Head, ...]:
        """M3's heads that count, in canonical order."""
        return tuple(head for head in HEADS if getattr(self, head) > 0)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """All scores that count: the heads, and "bm25" if it does."""
        return tuple(signal for signal in SIGNALS if getattr(self, signal) > 0)


def check_weights(weights: HybridWeights | None) -> HybridWeights:
    """Returns the weights, or the default ones for None.

    Raises:
        TypeError: If they are anything else.
    """
    if weights is None:
        return HybridWeights()
    if not isinstance(weights, HybridWeights):
        given = weights if isinstance(weights, Mapping) else {"dense": 1, "sparse": 0.3, "multi_vector": 1}
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        msg = f"weights must be a HybridWeights, got {weights!r}; write HybridWeights({shown})"
        raise TypeError(msg)
    return weights


def weighted_sum(scores: HeadScores, weights: HybridWeights) -> float:
    """The raw weighted sum, not divided by the sum of the weights; an unscored head adds nothing.

    Example:
        >>> weighted_sum(HeadScores(dense=0.5, sparse=1.0, multi_vector=0.25), HybridWeights())
        1.05
    """
    pairs = ((getattr(weights, signal), getattr(scores, signal)) for signal in SIGNALS)
    return sum((weight * score for weight, score in pairs if weight and score is not None), 0.0)
