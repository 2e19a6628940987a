"""The dense score: the dot product of unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dense_scores(queries: NDArray[np.floating], documents: NDArray[np.floating]) -> NDArray[np.float32]:
    """Dot product of every query with every document.

    Args:
        queries: Shape (q, dim), unit rows.
        documents: Shape (n, dim), unit rows.

    Returns:
        Shape (q, n), float32, in [-1, 1] for unit rows.

    Raises:
        ValueError: If the widths differ.

    Example:
        >>> dense_scores(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.6, 0.8]])).round(2).tolist()
        [[1.0, 0.6000000238418579]]
    """
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        msg = f"queries and documents must be (q, dim) and (n, dim), got {queries.shape} and {documents.shape}"
        raise ValueError(msg)
    scores: NDArray[np.float32] = np.asarray(queries, np.float32) @ np.asarray(documents, np.float32).T
    return scores
