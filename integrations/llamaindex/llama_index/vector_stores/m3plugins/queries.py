"""Translation of a `VectorStoreQuery` into searches of a `HybridRetriever`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.embeddings.m3plugins.embedding import dense_rows
from llama_index.vector_stores.m3plugins.filters import to_filter
from llama_index.vector_stores.m3plugins.nodes import NODE_ID, REF_DOC_ID

from m3plugins import HybridRetriever, HybridWeights, M3Output
from m3plugins.indexing.filters import Filter
from m3plugins.retrieval import Hit
from m3plugins.retrieval import filters as neutral

_SPARSE = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH)
_ALL_HEADS = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.MMR)
_OPTIONS = ("mmr_threshold", "mmr_prefetch_k", "mmr_prefetch_factor")
_PREFETCH_FACTOR = 4.0  # as the stock stores have it


def search(retriever: HybridRetriever, query: VectorStoreQuery, options: Mapping[str, Any]) -> list[tuple[Hit, float]]:
    """Searches for a query; returns hits, best first, each with its similarity.

    Args:
        retriever: The retriever that ranks.
        query: The query of LlamaIndex.
        options: Options of MMR: `mmr_threshold`, and `mmr_prefetch_k` or `mmr_prefetch_factor`.

    Raises:
        TypeError: If there is another option.
        ValueError: If the query has no text, or asks for a mode that no M3 index has.
    """
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        msg = f"unknown option {', '.join(unknown)}; there are {', '.join(_OPTIONS)}"
        raise TypeError(msg)
    if query.query_str is None:
        msg = "this store encodes the query itself and needs VectorStoreQuery(query_str=…), got none"
        raise ValueError(msg)
    weights, wanted = _weights(query, retriever.weights), _wanted(query)
    diverse = query.mode == VectorStoreQueryMode.MMR
    embedding = retriever.index.encoder.memo.encode_queries([query.query_str])
    if query.mode in _SPARSE:
        retriever = replace(retriever, reranker=None)
    hits = retriever.search_embedded(
        query.query_str,
        embedding,
        _prefetched(wanted, options) if diverse else wanted,
        filter=_filter(query),
        weights=weights,
    )
    hits = [hit for hit in hits if _asked_for(hit, query)]
    if diverse:
        threshold = options.get("mmr_threshold", query.mmr_threshold)
        return _diverse(retriever, embedding, hits, wanted, threshold)
    return [(hit, float(hit.score)) for hit in hits]


def _weights(query: VectorStoreQuery, weights: HybridWeights) -> HybridWeights:
    """All heads as the retriever weighs them; `alpha` shifts them to the vectors (1) or to the words (0)."""
    if query.mode in _SPARSE:
        return HybridWeights(dense=0, sparse=1, multi_vector=0)
    if query.mode not in _ALL_HEADS:
        modes = ", ".join(mode.value for mode in (*_ALL_HEADS, *_SPARSE))
        msg = f"mode must be one of {modes}, got {query.mode!r}"
        raise ValueError(msg)
    if query.alpha is None or query.mode != VectorStoreQueryMode.HYBRID:
        return weights
    if not 0 <= query.alpha <= 1:
        msg = f"alpha must be between 0 (sparse only) and 1 (dense and multi-vector only), got {query.alpha}"
        raise ValueError(msg)
    vectors, words = query.alpha, 1 - query.alpha
    return replace(
        weights,
        dense=vectors * weights.dense,
        multi_vector=vectors * weights.multi_vector,
        sparse=words * weights.sparse,
        bm25=words * weights.bm25,
    )


def _wanted(query: VectorStoreQuery) -> int:
    if query.mode == VectorStoreQueryMode.HYBRID and query.hybrid_top_k is not None:
        return query.hybrid_top_k
    if query.mode in _SPARSE and query.sparse_top_k is not None:
        return query.sparse_top_k
    return query.similarity_top_k


def _filter(query: VectorStoreQuery) -> Filter | None:
    """The metadata filter, and the nodes and source documents asked for; empty lists (the default) ask for nothing."""
    ids = [neutral.in_(field, of) for field, of in ((NODE_ID, query.node_ids), (REF_DOC_ID, query.doc_ids)) if of]
    asked = to_filter(query.filters)
    parts = ids if asked is None else [*ids, asked]
    return neutral.and_(*parts) if parts else None


def _asked_for(hit: Hit, query: VectorStoreQuery) -> bool:
    """Tells whether a hit is one of the nodes asked for by the index's ids: metadata of another origin may claim so."""
    source = hit.document.parent_id or hit.id
    return (not query.node_ids or hit.id in query.node_ids) and (not query.doc_ids or source in query.doc_ids)


def _prefetched(wanted: int, options: Mapping[str, Any]) -> int:
    """Returns the number of hits that MMR chooses from."""
    if options.get("mmr_prefetch_k") is None:
        return int(wanted * options.get("mmr_prefetch_factor", _PREFETCH_FACTOR))
    if options.get("mmr_prefetch_factor") is not None:
        msg = "give mmr_prefetch_k or mmr_prefetch_factor, got both"
        raise ValueError(msg)
    return int(options["mmr_prefetch_k"])


def _diverse(
    retriever: HybridRetriever, query: M3Output, hits: Sequence[Hit], wanted: int, threshold: float | None
) -> list[tuple[Hit, float]]:
    """LlamaIndex' own maximal marginal relevance, on the stored dense vectors of the hits."""
    stored = retriever.index.embeddings([hit.id for hit in hits], heads=["dense"])
    similarities, ids = get_top_k_mmr_embeddings(
        dense_rows(query)[0],
        [dense_rows(output)[0] for output in stored.values()],
        similarity_top_k=wanted,
        embedding_ids=list(stored),
        mmr_threshold=threshold,
    )
    found = {hit.id: hit for hit in hits}
    return [(found[i], float(similarity)) for i, similarity in zip(ids, similarities, strict=True)]
