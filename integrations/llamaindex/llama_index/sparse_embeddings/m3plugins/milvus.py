"""The sparse head for LlamaIndex' own Milvus store, which knows sparse embedders by their base class."""

from __future__ import annotations

import asyncio

from llama_index.sparse_embeddings.m3plugins.embedding import sparse_rows
from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

from m3plugins import M3Encoder


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
        """Token weights of each text."""
        return sparse_rows(self.encoder.memo.encode_documents(documents, heads=["sparse"]))

    async def async_encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """`encode_queries` in a thread."""
        return await asyncio.to_thread(self.encode_queries, queries)

    async def async_encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """`encode_documents` in a thread."""
        return await asyncio.to_thread(self.encode_documents, documents)
