"""Settings of the joint loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class PerHead:
    """One number for each head and for the ensemble of the heads."""

    dense: float = 1.0
    sparse: float = 1.0
    multi_vector: float = 1.0
    ensemble: float = 1.0

    def __getitem__(self, name: str) -> float:
        """Returns the number of the head called `name`."""
        return float(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Settings of `m3_loss`; the defaults are the reference's.

    Attributes:
        special_ids: Token ids that never carry a lexical weight: cls, eos, pad and unk.
        temperature: Temperature τ, one for all or one per head.
        score_weights: Weights of the heads in the ensemble score; `ensemble` is not read.
        loss_weights: Weights of the contrastive losses.
        distillation_weights: Weights of the self-distillation losses; `ensemble` is not read.
        teacher_weight: Weight of the external teacher's loss, added to every InfoNCE.
        in_batch_negatives: Compare each query with all passages of the batch instead of its own group only.
        false_negative_ratio: Share of the positive's ensemble score above which a passage is no negative (0.95 in
            NV-Retriever, arXiv 2407.15831); None keeps all.
        max_elements: Maximum number of token similarities that MaxSim holds at a time.

    Raises:
        ValueError: A temperature is not positive, a weight is negative, or the ratio is not above 0 and at most 1.
    """

    special_ids: tuple[int, ...]
    temperature: float | PerHead = 0.02
    score_weights: PerHead = PerHead(sparse=0.3)
    loss_weights: PerHead = PerHead(sparse=0.1)
    distillation_weights: PerHead = PerHead(sparse=0.1)
    teacher_weight: float = 1.0
    in_batch_negatives: bool = True
    false_negative_ratio: float | None = None
    max_elements: int = 2**24

    def __post_init__(self) -> None:
        if not all(0 < self.temperature_of(head.name) < math.inf for head in fields(PerHead)):
            msg = f"temperature must be positive, got {self.temperature}"
            raise ValueError(msg)
        for name in ("score_weights", "loss_weights", "distillation_weights"):
            if not all(0 <= getattr(self, name)[head.name] < math.inf for head in fields(PerHead)):
                msg = f"{name} must be at least 0, got {getattr(self, name)}"
                raise ValueError(msg)
        if self.false_negative_ratio is not None and not 0 < self.false_negative_ratio <= 1:
            msg = f"false_negative_ratio must be above 0 and at most 1, got {self.false_negative_ratio}"
            raise ValueError(msg)

    def temperature_of(self, name: str) -> float:
        """Returns τ of the head called `name`."""
        return self.temperature[name] if isinstance(self.temperature, PerHead) else self.temperature
