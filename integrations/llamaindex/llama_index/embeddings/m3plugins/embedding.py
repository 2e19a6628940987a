"""M3's dense embeddings as LlamaIndex takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode
from llama_index.embeddings.m3plugins.copies import copied
from llama_index.embeddings.m3plugins.encoder_fields import EncoderFields

from m3plugins import M3Output


class M3Embedding(EncoderFields, BaseEmbedding):
    """The dense head of M3: for any LlamaIndex store that takes one vector a node.

    It remembers (`M3Encoder.memo`), so an `M3SparseEmbedding` of the same model finds its half of the same text ready.
    See `EncoderFields` for the arguments; besides those it has LlamaIndex' own `embed_batch_size`, `num_workers`,
    `embeddings_cache` and `callback_manager`.

    Example:
        ```python
        embed_model = M3Embedding(model="BAAI/bge-m3", dtype="bfloat16")
        vector = embed_model.get_query_embedding("how do I …?")
        ```
    """

    embed_batch_size: int = Field(
        default=256, gt=0, le=2048, description="Texts a call; the encoder itself batches them by their tokens."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3Embedding"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Returns copies of the nodes, with their embeddings; the text is `MetadataMode.EMBED`."""
        return super().__call__([copied(node) for node in nodes], **kwargs)

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__`, encoding in a thread."""
        return await super().acall([copied(node) for node in nodes], **kwargs)

    def _get_query_embedding(self, query: str) -> list[float]:
        return dense_rows(self.encoder.memo.encode_queries([query], heads=["dense"]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return dense_rows(self.encoder.memo.encode_documents(texts, heads=["dense"]))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def dense_rows(output: M3Output) -> list[list[float]]:
    """Returns the dense vectors, which must be there, in plain Python numbers."""
    assert output.dense is not None
    rows: list[list[float]] = output.dense.tolist()
    return rows
