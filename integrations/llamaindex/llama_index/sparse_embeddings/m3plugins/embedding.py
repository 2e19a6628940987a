"""M3's sparse embeddings as LlamaIndex takes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.embeddings.m3plugins.encoder_fields import EncoderFields

if TYPE_CHECKING:
    from llama_index.sparse_embeddings.m3plugins.milvus import M3MilvusSparseFunction


class M3SparseEmbedding(EncoderFields, BaseSparseEmbedding):
    """The sparse head of M3: token id to weight.

    It remembers (`M3Encoder.memo`), so an `M3Embedding` of the same model finds its half of the same text ready.
    See `EncoderFields` for the arguments; besides those it has LlamaIndex' own `embed_batch_size` and `num_workers`.
    """

    embed_batch_size: int = Field(
        default=256, gt=0, le=2048, description="Texts a call; the encoder itself batches them by their tokens."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3SparseEmbedding"

    def for_milvus(self) -> M3MilvusSparseFunction:
        """Makes the `sparse_embedding_function` of the stock store, `MilvusVectorStore(enable_sparse=True, …)`.

        Raises:
            ImportError: If llama-index-vector-stores-milvus is not installed.
        """
        try:
            from llama_index.sparse_embeddings.m3plugins.milvus import M3MilvusSparseFunction
        except ImportError as err:
            msg = f"for_milvus needs LlamaIndex' Milvus store ({err}): pip install llama-index-vector-stores-milvus"
            raise ImportError(msg) from err
        return M3MilvusSparseFunction(self.encoder)

    def similarity(self, embedding1: dict[int, float], embedding2: dict[int, float]) -> float:
        """Computes the dot product, which is M3's sparse score; the base class would take the cosine."""
        return sum((weight * embedding2.get(token, 0.0) for token, weight in embedding1.items()), 0.0)

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        sparse = self.encoder.memo.encode_queries([query], heads=["sparse"]).sparse
        assert sparse is not None
        return sparse[0].to_dict()

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        sparse = self.encoder.memo.encode_documents(texts, heads=["sparse"]).sparse
        assert sparse is not None
        return sparse.to_dicts()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
