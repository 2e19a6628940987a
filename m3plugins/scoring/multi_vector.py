"""The multi-vector score: MaxSim, averaged over the query's tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.scoring.products import dot_products


def mean_of_maxima(products: NDArray[np.float32]) -> float:
    """The multi-vector score of one query and one document, from the products of their tokens.

    Args:
        products: Shape (document tokens, query tokens), float32: dot products of unit vectors.

    Returns:
        The mean over the query's tokens of the largest product; -inf for a document without a token, 0
        for a query without one.

    Example:
        >>> round(mean_of_maxima(np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)), 2)  # (1 + .8) / 2
        0.9
    """
    if not products.shape[1]:
        return 0.0
    return float(products.max(axis=0, initial=-np.inf).mean())


def multi_vector_scores(
    queries: MultiVectorEmbeddings, documents: MultiVectorEmbeddings, *, max_tokens: int = 1 << 15
) -> NDArray[np.float32]:
    """MaxSim of every query with every document, divided by the query's tokens (M3 paper, section 3.1, s_mul).

    For each query token the largest dot product with any token of the document; their mean. The
    products of a query and a chunk of documents, then a segmented maximum, so memory beyond the
    input is bounded by `max_tokens` (or the longest document, if that is longer) times query tokens.

    Args:
        queries: q ragged rows of unit vectors.
        documents: n ragged rows of unit vectors of the same width.
        max_tokens: Document tokens per chunk.

    Returns:
        Shape (q, n), float32, in [-1, 1] for unit vectors. A document without a token has no
        maximum and scores -inf; a query without a token scores 0 everywhere.

    Raises:
        ValueError: If the widths differ or `max_tokens` is not positive.

    Example:
        >>> query = MultiVectorEmbeddings.from_list([np.array([[1.0, 0.0], [0.0, 1.0]])])
        >>> documents = MultiVectorEmbeddings.from_list([np.array([[1.0, 0.0]]), np.array([[0.6, 0.8], [1.0, 0.0]])])
        >>> multi_vector_scores(query, documents).round(2).tolist()  # (1 + 0) / 2 and (1 + .8) / 2
        [[0.5, 0.8999999761581421]]
    """
    if queries.dim != documents.dim:
        msg = f"queries and documents must have vectors of one width, got {queries.dim} and {documents.dim}"
        raise ValueError(msg)
    if max_tokens < 1:
        msg = f"max_tokens must be a positive integer, got {max_tokens}"
        raise ValueError(msg)
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    filled = np.flatnonzero(np.diff(documents.offsets))
    for rows in _chunks(np.diff(documents.offsets)[filled], max_tokens):
        first, last = filled[rows.start], filled[rows.stop - 1]
        tokens = documents.vectors[documents.offsets[first] : documents.offsets[last + 1]]
        starts = documents.offsets[filled[rows]] - documents.offsets[first]
        for query in range(len(queries)):
            query_tokens = queries.vectors[queries.offsets[query] : queries.offsets[query + 1]]
            if len(query_tokens):
                products = dot_products(tokens, query_tokens)
                scores[query, filled[rows]] = np.maximum.reduceat(products, starts, axis=0).mean(axis=1)
    scores[np.diff(queries.offsets) == 0] = 0.0
    return scores


def _chunks(lengths: NDArray[np.int64], max_tokens: int) -> Iterator[slice]:
    """Consecutive rows of at most `max_tokens` tokens together, one row at least."""
    start, total = 0, 0
    for row, length in enumerate(lengths.tolist()):
        if row > start and total + length > max_tokens:
            yield slice(start, row)
            start, total = row, 0
        total += length
    if start < len(lengths):
        yield slice(start, len(lengths))
