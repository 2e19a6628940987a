"""A transformation for the stock stores that keep two vectors: a node costs one forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from llama_index.embeddings.m3plugins.copies import copied
from llama_index.embeddings.m3plugins.embedding import dense_rows
from llama_index.embeddings.m3plugins.encoder_fields import EncoderFields


class M3NodeEncoder(EncoderFields, TransformComponent):
    """Encodes the text of all nodes together, sets `embedding`, and has the sparse half ready for the store.

    A stock store with two vectors (Milvus with `sparse_embedding_function=`) gets its halves from different texts: the
    dense one from `node.get_content(MetadataMode.EMBED)`, which has the metadata that `excluded_embed_metadata_keys`
    does not name, the sparse one from `node.text`, which has none, one node at a time. For nodes with metadata that is
    two forward passes, and two vectors that do not mean the same text.

    After this step both are those of **`node.text`, without metadata**, and a node costs one pass: LlamaIndex embeds no
    node that has an embedding, and an `M3SparseEmbedding` of the same model finds the text in the encoder's memo (up to
    the memo's 256 MiB, some 40,000 nodes of BGE-M3, between this step and the store). What is to be found by its
    metadata must have them in the text. Where every key is excluded the two texts are one, and an `M3Embedding` does
    the same.

    `M3VectorStore` needs none of this: it encodes the EMBED text itself, once for all heads.
    See `EncoderFields` for the arguments.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3NodeEncoder"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Returns copies of the nodes, with the embedding of their text."""
        texts = [node.get_content(MetadataMode.NONE) for node in nodes]
        rows = dense_rows(self.encoder.memo.encode_documents(texts, heads=["dense", "sparse"]))
        return [copied(node, embedding=row) for node, row in zip(nodes, rows, strict=True)]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """`__call__` in a thread."""
        return await asyncio.to_thread(self, nodes, **kwargs)
