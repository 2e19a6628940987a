"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) over stored dense vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_m3plugins.embeddings import dense_rows
from m3plugins import Hit, HybridIndex


def diverse(hits: Sequence[Hit], index: HybridIndex, query: Sequence[float], k: int, lambda_mult: float) -> list[Hit]:
    """Chooses k hits that are like the query and unlike each other, as LangChain's own stores do.

    Args:
        hits: The hits to choose from; one that is deleted meanwhile is left out.
        index: The index that holds their vectors.
        query: The query's dense vector.
        k: Number of hits to choose.
        lambda_mult: 1 goes by the similarity to the query alone, 0 by the dissimilarity to each other.
    """
    stored = index.embeddings([hit.id for hit in hits], heads=("dense",))
    there = [hit for hit in hits if hit.id in stored]
    vectors = [dense_rows(stored[hit.id])[0] for hit in there]
    chosen = maximal_marginal_relevance(np.array(query, np.float32), vectors, lambda_mult=lambda_mult, k=k)
    return [there[place] for place in chosen]


def check_positive(name: str, value: int) -> None:
    """Refuses a number of documents below 1.

    Raises:
        ValueError: If so.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"{name} must be a positive integer, got {value!r}"
        raise ValueError(msg)
