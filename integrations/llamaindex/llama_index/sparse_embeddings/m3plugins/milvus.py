"""The sparse head for LlamaIndex' own Milvus store, which knows sparse embedders by their base class."""

from __future__ import annotations

import asyncio

from llama_index.sparse_embeddings.m3plugins.embedding import sparse_rows
from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

from m3plugins import M3Encoder

SENTINEL_WEIGHT = 1e-6
"""Of that dimension, which no query has: Milvus takes no empty vector."""


class M3MilvusSparseFunction(BaseSparseEmbeddingFunction):
    """What `M3SparseEmbedding.for_milvus` gives.

    Args:
        encoder: Encodes, through its memo.
    """

    def __init__(self, encoder: M3Encoder) -> None:
        self.encoder = encoder

    def encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """Token weights of each query."""
        return sparse_rows(self.encoder.memo.encode_queries(queries, heads=["sparse"]))

    def encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """Token weights of each text; one without a token gets a dimension beyond the vocabulary."""
        rows = sparse_rows(self.encoder.memo.encode_documents(documents, heads=["sparse"]))
        return [row or {self.encoder.vocab_size: SENTINEL_WEIGHT} for row in rows]

    async def async_encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """`encode_queries` in a thread."""
        return await asyncio.to_thread(self.encode_queries, queries)

    async def async_encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """`encode_documents` in a thread."""
        return await asyncio.to_thread(self.encode_documents, documents)
