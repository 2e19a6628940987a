"""Fine-tuning of M3 models: losses over the dense, sparse and multi-vector heads."""

from m3plugins.training.losses import (
    LossOptions,
    M3Loss,
    PerHead,
    Representations,
    TokenVectors,
    TokenWeights,
    m3_loss,
)

__all__ = ["LossOptions", "M3Loss", "PerHead", "Representations", "TokenVectors", "TokenWeights", "m3_loss"]
