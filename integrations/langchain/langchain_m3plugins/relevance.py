"""Scores mapped to [0, 1], which LangChain calls relevance."""

from __future__ import annotations

import math
from collections.abc import Callable

from m3plugins import HybridRetriever, HybridWeights
from m3plugins.reranking import CrossEncoderReranker, M3Reranker


def relevance_of(retriever: HybridRetriever, weights: HybridWeights | None = None) -> Callable[[float], float]:
    """Returns the map from the scores that a retriever orders by to [0, 1]; it keeps their order.

    - Weighted fusion, and M3 as a reranker: score / sum of the weights of M3's heads, cut to [0, 1]. A text has
      about 1 with itself; the sparse head and BM25 have no upper bound.
    - "rrf": score / (sum of all weights / 61); 1 is the first rank in every signal that counts.
    - Any other reranker: the logistic function of its score, 1 / (1 + exp(-score)); of a cross-encoder that
      returns it already, the score itself.

    Args:
        retriever: The retriever of the scores.
        weights: The weights of the search, in place of the retriever's own.
    """
    weights = weights or retriever.weights
    reranker = retriever.reranker
    if isinstance(reranker, CrossEncoderReranker) and reranker.normalize:
        return _share_of(1.0)
    if isinstance(reranker, M3Reranker):
        return _share_of(_sum(reranker.weights))
    if reranker is not None:
        return _logistic
    return _share_of((_sum(weights) + weights.bm25) / 61 if retriever.fusion == "rrf" else _sum(weights))


def _sum(weights: HybridWeights) -> float:
    return weights.dense + weights.sparse + weights.multi_vector


def _share_of(best: float) -> Callable[[float], float]:
    return lambda score: min(max(score / best, 0.0), 1.0)


def _logistic(score: float) -> float:
    decay = math.exp(-abs(score))
    return (1.0 if score >= 0 else decay) / (1.0 + decay)
