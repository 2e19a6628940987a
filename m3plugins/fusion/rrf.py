"""Weighted reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m3plugins.fusion.ordering import ranks


def reciprocal_rank_fusion(
    columns: Sequence[Sequence[float | None]], *, weights: Sequence[float] | None = None, k: int = 60
) -> NDArray[np.float64]:
    """Sums, over the lists that a document is in, weight / (k + rank), rank counting from 1.

    With weights of 1 this is RRF as published: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms
    Condorcet and individual Rank Learning Methods", SIGIR 2009, whose k is 60. The weights are those of
    Elasticsearch's and Chroma's RRF.

    Args:
        columns: The n scores of each list, higher is better; equal scores share the better rank. None is a
            document that is absent from that list, and has nothing from it.
        weights: Weight of each list, >= 0; 1 each by default.
        k: The constant of the formula.

    Returns:
        Shape (n,), float64.

    Raises:
        ValueError: If `k` is negative, the columns differ in length, or there is not one weight a column.

    Example:
        >>> reciprocal_rank_fusion([[0.9, 0.1], [2.0, 2.0]], k=1).round(3).tolist()  # 1/2 + 1/2 and 1/3 + 1/2
        [1.0, 0.833]
        >>> reciprocal_rank_fusion([[0.9, 0.1], [None, 0.2]], weights=[1, 0.3], k=1).round(3).tolist()  # .5, 1/3 + .15
        [0.5, 0.483]
    """
    weights = [1.0] * len(columns) if weights is None else weights
    if k < 0:
        msg = f"k must be >= 0, got {k}"
        raise ValueError(msg)
    if len({len(column) for column in columns}) != 1:
        msg = f"every list must have a score or None for the same documents, got {[len(c) for c in columns]} scores"
        raise ValueError(msg)
    if len(weights) != len(columns):
        msg = f"there must be one weight a list, got {len(weights)} for {len(columns)}"
        raise ValueError(msg)
    fused = np.zeros(len(columns[0]))
    for column, weight in zip(columns, weights, strict=True):
        scored = {row: score for row, score in enumerate(column) if score is not None}
        fused[list(scored)] += weight / (k + np.array(ranks(list(scored.values())), np.float64))
    return fused
