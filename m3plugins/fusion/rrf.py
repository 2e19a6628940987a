"""Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m3plugins.fusion.ordering import ranks


def reciprocal_rank_fusion(columns: Sequence[Sequence[float]], *, k: int = 60) -> NDArray[np.float64]:
    """Sum over the heads of 1 / (k + rank), rank counting from 1; equal scores share the better rank.

    Args:
        columns: One sequence of n scores a head, higher is better.
        k: The constant of the formula.

    Returns:
        Shape (n,), float64.

    Raises:
        ValueError: If `k` is negative or the columns differ in length.

    Example:
        >>> reciprocal_rank_fusion([[0.9, 0.1], [2.0, 2.0]], k=1).round(3).tolist()  # 1/2 + 1/2 and 1/3 + 1/2
        [1.0, 0.833]
    """
    if k < 0:
        msg = f"k must be >= 0, got {k}"
        raise ValueError(msg)
    if len({len(column) for column in columns}) != 1:
        msg = f"every head must score the same documents, got {[len(column) for column in columns]} scores"
        raise ValueError(msg)
    fused: NDArray[np.float64] = (1.0 / (k + np.array([ranks(column) for column in columns]))).sum(axis=0)
    return fused
