"""The scores of one query-document pair, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.scoring.dense import dense_scores
from m3plugins.scoring.multi_vector import multi_vector_scores
from m3plugins.scoring.sparse import sparse_scores

Signal = Head | Literal["bm25"]
"""A score that a search can go by: that of one of M3's heads, or the BM25 of an engine that has it."""

SIGNALS: tuple[Signal, ...] = (*HEADS, "bm25")


@dataclass(frozen=True)
class HeadScores:
    """Exact scores of one query-document pair, head by head; what was not scored is None.

    Attributes:
        dense: Dot product of unit vectors, in [-1, 1].
        sparse: Sum of products of shared token weights, >= 0, no upper bound.
        multi_vector: Mean over query tokens of the maximum dot product, in [-1, 1].
        bm25: The engine's own BM25 score, >= 0, where that signal was asked for.
    """

    dense: float | None = None
    sparse: float | None = None
    multi_vector: float | None = None
    bm25: float | None = None


def check_query(query: M3Output) -> None:
    """Refuses a query that is none or several, or one with which nothing can be compared.

    Raises:
        ValueError: If `query` is not of length 1, or a number of it is NaN or infinite.
    """
    if len(query) != 1:
        msg = f"query must hold one text, got {len(query)}; slice it, as in output[i]"
        raise ValueError(msg)
    arrays = {
        "dense": query.dense,
        "sparse": None if query.sparse is None else query.sparse.values,
        "multi_vector": None if query.multi_vector is None else query.multi_vector.vectors,
    }
    for head, array in arrays.items():
        if array is not None and not np.isfinite(array).all():
            odd = array[~np.isfinite(array)][0]
            msg = f"query must hold finite numbers, got {odd} in its {head} embedding; encode it again, or correct it"
            raise ValueError(msg)


def head_scores(query: M3Output, documents: M3Output) -> list[HeadScores]:
    """Scores one query with n documents, on the heads that both have.

    Args:
        query: Embeddings of one text.
        documents: Embeddings of n texts.

    Returns:
        n scores, in the documents' order.

    Raises:
        ValueError: If `query` is not of length 1, or not finite.
    """
    check_query(query)
    columns = {}
    if query.dense is not None and documents.dense is not None:
        columns["dense"] = dense_scores(query.dense, documents.dense)[0].tolist()
    if query.sparse is not None and documents.sparse is not None:
        columns["sparse"] = sparse_scores(query.sparse, documents.sparse)[0].tolist()
    if query.multi_vector is not None and documents.multi_vector is not None:
        columns["multi_vector"] = multi_vector_scores(query.multi_vector, documents.multi_vector)[0].tolist()
    return [HeadScores(**{head: column[i] for head, column in columns.items()}) for i in range(len(documents))]
