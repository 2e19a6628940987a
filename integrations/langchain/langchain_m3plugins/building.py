"""Construction of the retriever behind `M3VectorStore.from_texts`."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from langchain_m3plugins.embeddings import M3Embeddings
from m3plugins import HybridIndex, HybridRetriever, InMemoryHybridIndex, ModelMismatchError


def retriever_for(
    embedding: Embeddings | None, index: HybridIndex | None, retriever: HybridRetriever | None
) -> HybridRetriever:
    """Returns the retriever that is given, or one over the index that is given, or over a new one in memory.

    Raises:
        TypeError: If `embedding` is not `M3Embeddings`.
        ValueError: If there is both an index and a retriever, or nothing to encode with.
        ModelMismatchError: If `embedding` is of another model than the index.
    """
    if embedding is not None and not isinstance(embedding, M3Embeddings):
        msg = f"embedding must be M3Embeddings, as the index stores all heads of M3, got {type(embedding).__name__}"
        raise TypeError(msg)
    if index is not None and retriever is not None:
        msg = "give an index or a retriever, which has one, got both"
        raise ValueError(msg)
    if retriever is None:
        retriever = HybridRetriever(_in_memory(embedding) if index is None else index)
    if embedding is not None:
        _check_same_model(embedding, retriever.index)
    return retriever


def _in_memory(embedding: M3Embeddings | None) -> HybridIndex:
    if embedding is None:
        msg = "there must be an embedding to encode with, or an index or a retriever, got none"
        raise ValueError(msg)
    return InMemoryHybridIndex(encoder=embedding.encoder)


def _check_same_model(embedding: M3Embeddings, index: HybridIndex) -> None:
    encoder = index.encoder
    if embedding.encoder is not encoder and embedding.encoder.fingerprint != encoder.fingerprint:
        msg = f"the index holds vectors of {encoder.model}, got an embedding of {embedding.model}; leave it out"
        raise ModelMismatchError(msg)
