"""Fusion of the heads' scores: weighted sum and reciprocal ranks."""

from m3plugins.fusion.ordering import best_first, ranks
from m3plugins.fusion.rrf import reciprocal_rank_fusion
from m3plugins.fusion.weighted import HybridWeights, weighted_sum

__all__ = ["HybridWeights", "best_first", "ranks", "reciprocal_rank_fusion", "weighted_sum"]
