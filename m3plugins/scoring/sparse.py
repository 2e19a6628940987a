"""The sparse score: the sum, over the token ids two texts share, of the product of their weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.sparse import SparseEmbeddings


def sparse_scores(queries: SparseEmbeddings, documents: SparseEmbeddings) -> NDArray[np.float32]:
    """Lexical match of every query with every document (M3 paper, section 3.1, s_lex).

    Memory is O(q * u + nnz), u being the number of distinct token ids of the queries.

    Args:
        queries: q sparse rows.
        documents: n sparse rows.

    Returns:
        Shape (q, n), float32, >= 0; 0 where no token is shared.

    Example:
        >>> queries = SparseEmbeddings.from_dicts([{1: 0.5, 3: 1.0}, {}], vocab_size=8)
        >>> documents = SparseEmbeddings.from_dicts([{3: 0.25, 1: 2.0}, {4: 1.0}], vocab_size=8)
        >>> sparse_scores(queries, documents).tolist()
        [[1.25, 0.0], [0.0, 0.0]]
    """
    scores = np.zeros((len(queries), len(documents)), np.float32)
    vocabulary, query_columns = np.unique(queries.indices, return_inverse=True)
    if not len(vocabulary) or not len(documents.indices):
        return scores
    table = np.zeros((len(queries), len(vocabulary)), np.float32)
    table[np.repeat(np.arange(len(queries)), np.diff(queries.indptr)), query_columns] = queries.values

    columns = np.searchsorted(vocabulary, documents.indices).clip(max=len(vocabulary) - 1)
    shared = vocabulary[columns] == documents.indices
    rows = np.repeat(np.arange(len(documents)), np.diff(documents.indptr))[shared]
    columns, weights = columns[shared], documents.values[shared]
    for query, weight_of in enumerate(table):
        scores[query] = np.bincount(rows, weights=weight_of[columns] * weights, minlength=len(documents))
    return scores
