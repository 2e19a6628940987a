"""Both heads of M3 in LlamaIndex' own Elasticsearch store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from m3plugins import HybridWeights, M3Encoder

try:
    from llama_index.vector_stores.elasticsearch import ElasticsearchStore  # type: ignore[import,unused-ignore]

    from m3plugins_elasticsearch.strategy import AsyncM3EmbeddingService, AsyncM3RetrievalStrategy
except ImportError as err:
    msg = f"{err}; pip install llama-index-vector-stores-elasticsearch m3plugins-elasticsearch"
    raise ImportError(msg) from err


class M3ElasticsearchStore(ElasticsearchStore):  # type: ignore[misc,unused-ignore]
    """The stock store, with M3's dense and sparse vectors of every node; a search goes by both, in one request.

    The store encodes nodes (their EMBED text) and queries itself, at one pass a text, so the index around it takes a
    `StoreEmbedding`. How far scores are exact is said of `m3plugins_elasticsearch.strategy.M3RetrievalStrategy`. The
    rest is the stock store's: it spreads similarities over [0, 1], filters test for equality, and the query mode is
    left at its default, which is both heads. For all three heads, all filters and M3's own scores take `M3VectorStore`
    over an `ElasticsearchHybridIndex`.

    Args:
        index_name: A new index; one that the stock store has made has another mapping.
        encoder: An encoder; or the name of a model, whose encoder is shared with all who name it.
        weights: Weight of each head; that of the multi-vector head is not used.
        dense_index: A type of dense index, or `index_options` of one.
        window: Documents a shard that are scored by both heads at least.
        **options: Options of the stock store: `es_url` or `es_client`, and others.

    Raises:
        ValueError: If an option is not possible.

    Example:
        ```python
        store = M3ElasticsearchStore("docs", encoder="BAAI/bge-m3", es_url="http://…")
        index = VectorStoreIndex.from_vector_store(store, embed_model=StoreEmbedding())
        ```
    """

    def __init__(
        self,
        index_name: str,
        *,
        encoder: M3Encoder | str = "BAAI/bge-m3",
        weights: HybridWeights | None = None,
        dense_index: str | Mapping[str, Any] = "int8_hnsw",
        window: int = 1_000,
        **options: Any,
    ) -> None:
        strategy = AsyncM3RetrievalStrategy(encoder, weights=weights, dense_index=dense_index, window=window)
        super().__init__(index_name, retrieval_strategy=strategy, **options)
        self._store.embedding_service = AsyncM3EmbeddingService(strategy.encoder)

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3ElasticsearchStore"

    async def async_add(
        self, nodes: Sequence[BaseNode], *, create_index_if_not_exists: bool = True, **add_kwargs: Any
    ) -> list[str]:
        """Stores nodes; returns their ids."""
        if not nodes:
            return []
        contents = [node.get_content(MetadataMode.EMBED) for node in nodes]
        vectors = await self._store.embedding_service.embed_documents(contents)
        ids: list[str] = await self._store.add_texts(
            [node.get_content(MetadataMode.NONE) for node in nodes],
            metadatas=[node_to_metadata_dict(node, remove_text=True) for node in nodes],
            vectors=vectors,
            ids=[node.node_id for node in nodes],
            create_index_if_not_exists=create_index_if_not_exists,
            bulk_kwargs=add_kwargs,
        )
        return ids
