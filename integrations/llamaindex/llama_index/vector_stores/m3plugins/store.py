"""A LlamaIndex vector store over any `HybridIndex`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.vector_stores.m3plugins.filters import to_filter
from llama_index.vector_stores.m3plugins.nodes import to_document, to_node
from llama_index.vector_stores.m3plugins.queries import search
from llama_index.vector_stores.m3plugins.store_embedding import StoreEmbedding

from m3plugins import HybridRetriever
from m3plugins.indexing import FailedDocument, HybridIndex
from m3plugins.retrieval import filters as neutral

if TYPE_CHECKING:
    from llama_index.core import VectorStoreIndex


class M3VectorStore(BasePydanticVectorStore):
    """Keeps nodes in a `HybridIndex`, ranked by all three heads of M3.

    The store does the encoding: of a node its EMBED text (`node.get_content(MetadataMode.EMBED)`, stripped), once for
    all heads; of a query its text. Embeddings that come with nodes are not used, so give LlamaIndex an embed model that
    costs nothing, `StoreEmbedding()`, or take the index from `as_index()`.

    A node comes back as it was, relationships, excluded keys and templates included, but for its embedding. Its
    metadata must be JSON; they are fields of the index's documents, open to any filter.

    Query modes: `default` and `hybrid` rank by all heads with the retriever's weights; in `hybrid`, `alpha` scales
    dense and multi-vector by alpha and sparse by 1 - alpha, and `hybrid_top_k` goes before `similarity_top_k`.
    `sparse` and `text_search` rank by the sparse score, without a reranker; there `sparse_top_k` goes before
    `similarity_top_k`. `mmr` chooses among the best by all heads, with LlamaIndex' MMR on the dense vectors
    (`vector_store_kwargs` of the retriever: `mmr_threshold`, `mmr_prefetch_k` or `mmr_prefetch_factor`). Similarities
    are raw scores, not in [0, 1].

    Args:
        retriever: The index, and how to rank.

    Example:
        ```python
        store = M3VectorStore(retriever=HybridRetriever(index))
        vector_index = store.as_index()
        vector_index.insert_nodes(nodes)
        vector_index.as_retriever(similarity_top_k=5).retrieve("how do I …?")
        ```
    """

    stores_text: bool = True
    is_embedding_query: bool = False

    _retriever: HybridRetriever = PrivateAttr()

    def __init__(self, retriever: HybridRetriever) -> None:
        super().__init__(stores_text=True, is_embedding_query=False)
        self._retriever = retriever

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3VectorStore"

    @property
    def client(self) -> HybridIndex:
        """The index."""
        return self._retriever.index

    @property
    def retriever(self) -> HybridRetriever:
        """The retriever that ranks."""
        return self._retriever

    def as_index(self, **kwargs: Any) -> VectorStoreIndex:
        """Makes a `VectorStoreIndex` over this store, which does the encoding; takes its arguments."""
        from llama_index.core import VectorStoreIndex

        return VectorStoreIndex.from_vector_store(self, embed_model=StoreEmbedding(), **kwargs)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Stores nodes, and encodes those whose EMBED text is new; a node of a known id replaces the old one.

        Returns:
            The nodes' ids.

        Raises:
            UpsertError: If some could not be stored, or written as JSON; it names them, and the others are stored.
            ValueError: If the index cuts its documents into passages.
        """
        if self.client.passages is not None:
            msg = "nodes are passages already; give M3VectorStore an index made without passages="
            raise ValueError(msg)
        documents, failed = [], []
        for node in nodes:
            try:
                documents.append(to_document(node))
            except ValueError as err:
                failed.append(FailedDocument(node.node_id, str(err)))
        report = self.client.upsert(documents)
        report.failed += failed
        report.raise_for_failed()
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes of a source document; a node without one is its own source."""
        self.client.delete(parent_id=ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Deletes nodes by id, by filter, or those of the ids that pass the filter.

        Raises:
            ValueError: If neither says anything; `clear` deletes all.
        """
        wanted = to_filter(filters)
        if node_ids is None and wanted is None:
            msg = "say which nodes to delete, by node_ids or filters, got neither; clear() deletes all"
            raise ValueError(msg)
        if node_ids is None:
            self.client.delete(filter=wanted)
        else:
            self.client.delete(ids=[node.node_id for node in self.get_nodes(node_ids, filters)] if wanted else node_ids)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Returns the nodes of these ids that are there, those that pass the filter, or both; without either, all."""
        wanted = to_filter(filters)
        if node_ids is None:
            return [to_node(document) for document in self.client.scan(wanted)]
        documents = self.client.get(node_ids)
        return [to_node(each) for each in documents if wanted is None or neutral.matches(wanted, each.metadata)]

    def clear(self) -> None:
        """Deletes every node."""
        self.client.delete(filter=neutral.and_())

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Finds nodes, with their similarities and ids, best first.

        Raises:
            ValueError: If the query has no text, a mode that no M3 index has, or a filter that none can do.
        """
        found = search(self._retriever, query, kwargs)
        return VectorStoreQueryResult(
            nodes=[to_node(hit.document) for hit, _ in found],
            similarities=[similarity for _, similarity in found],
            ids=[hit.id for hit, _ in found],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """`add` in a thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """`delete` in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """`delete_nodes` in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """`get_nodes` in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """`clear` in a thread."""
        await asyncio.to_thread(self.clear)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """`query` in a thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)
