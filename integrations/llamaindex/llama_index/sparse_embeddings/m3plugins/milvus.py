"""The sparse head for LlamaIndex' own Milvus store, which knows sparse embedders by their base class."""

from __future__ import annotations

import asyncio

from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

from m3plugins import M3Encoder


class M3MilvusSparseFunction(BaseSparseEmbeddingFunction):
    """Token weights for `MilvusVectorStore`; `M3SparseEmbedding.for_milvus` makes it.

    Args:
        encoder: The model; what its memo remembers is not encoded again.
    """

    def __init__(self, encoder: M3Encoder) -> None:
        self.encoder = encoder

    def encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """Encodes queries, as token weights."""
        sparse = self.encoder.memo.encode_queries(queries, heads=["sparse"]).sparse
        assert sparse is not None
        return sparse.to_dicts()

    def encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """Encodes texts, as token weights; one without a token gets an id beyond the vocabulary."""
        sparse = self.encoder.memo.encode_documents(documents, heads=["sparse"]).sparse
        assert sparse is not None
        return sparse.to_dicts(sentinel=True)

    async def async_encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """`encode_queries` in a thread."""
        return await asyncio.to_thread(self.encode_queries, queries)

    async def async_encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """`encode_documents` in a thread."""
        return await asyncio.to_thread(self.encode_documents, documents)
