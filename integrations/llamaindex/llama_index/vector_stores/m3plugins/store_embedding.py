"""The embed model of a store that needs none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode
from llama_index.embeddings.m3plugins.copies import copied


class StoreEmbedding(BaseEmbedding):
    """Leaves the embedding to `M3VectorStore`, which encodes every node once for all heads.

    LlamaIndex asks for an embed model wherever there is a vector store, and a pipeline hands only nodes with an
    embedding to its store. This one costs nothing: nodes get a placeholder. Unlike LlamaIndex' `MockEmbedding` it
    refuses queries, so that a store that does need embeddings fails at once and does not return anything at random.
    """

    model_name: str = Field(default="the store's own")

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "StoreEmbedding"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Copies of the nodes, with the placeholder."""
        return [copied(node, embedding=self._get_text_embedding("")) for node in nodes]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__`."""
        return self(nodes, **kwargs)

    def _get_text_embedding(self, text: str) -> list[float]:
        return [1.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        msg = "StoreEmbedding is for M3VectorStore, which encodes queries itself; another store needs M3Embedding"
        raise ValueError(msg)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)
