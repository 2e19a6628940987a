"""The search that the retriever and the store share: the query is encoded once, whoever asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from typing_extensions import Unpack

from m3plugins import Hit, HybridRetriever, HybridWeights, M3Encoder, M3Output
from m3plugins.indexing.filters import AnyFilter
from m3plugins.reranking import Reranker
from m3plugins.retrieval.retriever import SearchOptions

Rerank = Reranker | Literal[False] | None
"""A reranker in place of the `HybridRetriever`'s own, False for none, None for its own."""

DENSE = HybridWeights(dense=1, sparse=0, multi_vector=0)

SEARCH_TYPES: Mapping[str, Mapping[str, Any]] = {
    "hybrid": {},
    "dense": {"weights": DENSE, "rerank": False},
    "sparse": {"weights": HybridWeights(dense=0, sparse=1, multi_vector=0), "rerank": False},
    "multi_vector": {"weights": HybridWeights(dense=0, sparse=0, multi_vector=1), "rerank": False},
}
"""Ways to search by name, beside LangChain's own, and the options that they stand for."""


def search(
    retriever: HybridRetriever, query: str, k: int, *, rerank: Rerank = None, **options: Unpack[SearchOptions]
) -> list[Hit]:
    """Runs `HybridRetriever.search` with the remembered embedding of the query, and maybe another reranker.

    Raises:
        TypeError: If an option or `rerank` is something else.
        ValueError: If `k` or `per_parent` is not positive.
    """
    embedding = retriever.index.encoder.memo.encode_queries([query])
    return reranked_by(retriever, rerank).search_embedded(query, embedding, k, **options)


def search_dense(
    retriever: HybridRetriever,
    vector: Sequence[float],
    k: int,
    *,
    filter: AnyFilter | None = None,
    min_score: float | None = None,
    per_parent: int | None = None,
) -> list[Hit]:
    """Finds the best documents by the exact dense score with a vector; nothing is reranked, as there is no query.

    Raises:
        ValueError: If the vector is not of the model's width, or `k` or `per_parent` is not positive.
    """
    query = dense_output(vector, retriever.index.encoder)
    dense = replace(retriever, reranker=None, fusion="weighted", weights=DENSE)
    return dense.search_embedded("", query, k, filter=filter, min_score=min_score, per_parent=per_parent)


def reranked_by(retriever: HybridRetriever, rerank: Rerank) -> HybridRetriever:
    """Returns the retriever, or one like it with another reranker or none.

    Raises:
        TypeError: If `rerank` is no reranker of m3plugins.
    """
    if rerank is None:
        return retriever
    if rerank is not False and (isinstance(rerank, BaseCrossEncoder) or not isinstance(rerank, Reranker)):
        msg = f"rerank must be a reranker of m3plugins.reranking, or False to leave it out, got {rerank!r}"
        raise TypeError(msg)
    return replace(retriever, reranker=rerank or None)


def dense_output(vector: Sequence[float], encoder: M3Encoder) -> M3Output:
    """Makes of a dense vector the output of one text.

    Raises:
        ValueError: If it is not of the model's width.
    """
    dense = np.asarray(vector, np.float32)
    if dense.shape != (encoder.dim,):
        msg = f"the vector must have the {encoder.dim} dimensions of {encoder.model}, got the shape {dense.shape}"
        raise ValueError(msg)
    return M3Output(
        dense=dense[None],
        sparse=None,
        multi_vector=None,
        token_counts=np.zeros(1, np.int32),
        truncated=np.zeros(1, np.bool_),
    )


def check_keywords(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses a keyword that would be without effect.

    Raises:
        TypeError: If there is one.
    """
    if unknown := sorted(given.keys() - set(known)):
        msg = f"unknown keyword {', '.join(unknown)}; there are {', '.join(known)}"
        raise TypeError(msg)
