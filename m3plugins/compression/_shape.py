"""The checks that every codec makes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def check_vectors(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Converts vectors to float32, and refuses those that could not come back from storage."""
    if vectors.ndim != 2:
        msg = f"token vectors must have the shape (tokens, dim), got {vectors.shape}"
        raise ValueError(msg)
    if not np.isfinite(vectors).all():
        msg = "token vectors must be finite, got NaN or infinity"
        raise ValueError(msg)
    return vectors.astype(np.float32, copy=False)


def token_rows(data: bytes, bytes_per_token: int) -> NDArray[np.uint8]:
    """Shapes stored bytes into one row a token."""
    if len(data) % bytes_per_token:
        msg = f"stored token vectors take {bytes_per_token} bytes each, got {len(data)} bytes; codec or width is wrong"
        raise ValueError(msg)
    return np.frombuffer(data, np.uint8).reshape(-1, bytes_per_token)


def check_stored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Passes the values of stored vectors, or their products with finite ones, unless they are no numbers."""
    if not np.isfinite(values).all():
        msg = "stored token vectors must be finite, got NaN or infinity"
        raise ValueError(msg)
    return values
