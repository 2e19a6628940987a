"""Dot products of stored token vectors with a query's, without a float32 copy of what is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE = 900_000
"""Multiplications of one matrix product. OpenBLAS computes up to 100^3 in the calling thread, without packing; a
larger product wakes the other cores, and at these sizes waiting for them takes longer than the product."""

QUERY_TILE = 32


def dot_products(tokens: NDArray[np.generic], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """`tokens @ queries.T` in float32, in tiles that stay in the cache.

    Args:
        tokens: Shape (tokens, dim), of any type of number.
        queries: Shape (query tokens, dim), float32.

    Returns:
        Shape (tokens, query tokens), float32.

    Example:
        >>> dot_products(np.array([[2, 1], [0, 4]], np.int8), np.array([[0.5, 0.25]], np.float32)).tolist()
        [[1.25], [1.0]]
    """
    products = np.empty((len(tokens), len(queries)), np.float32)
    step = max(1, TILE // max(1, tokens.shape[1] * min(len(queries), QUERY_TILE)))
    for start in range(0, len(tokens), step):
        rows = slice(start, start + step)
        part = tokens[rows].astype(np.float32, copy=False)
        for first in range(0, len(queries), QUERY_TILE):
            columns = slice(first, first + QUERY_TILE)
            np.matmul(part, queries[columns].T, out=products[rows, columns])
    return products
