"""The three M3 scores, as pure functions on arrays."""

from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.heads import SIGNALS, HeadScores, Signal, head_scores
from m3plugins.scoring.multi_vector import multi_vector_scores
from m3plugins.scoring.sparse import sparse_scores

__all__ = ["SIGNALS", "HeadScores", "Signal", "dense_scores", "head_scores", "multi_vector_scores", "sparse_scores"]
