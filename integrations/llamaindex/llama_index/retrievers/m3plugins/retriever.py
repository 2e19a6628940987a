"""M3's ranking as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any, Literal

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.vector_stores.m3plugins.filters import to_filter
from llama_index.vector_stores.m3plugins.nodes import annotated, to_node

from m3plugins import HybridRetriever, HybridWeights
from m3plugins.indexing.filters import AnyFilter
from m3plugins.reranking import Reranker
from m3plugins.retrieval import Hit


class M3Retriever(BaseRetriever):
    """Searches any `HybridIndex`, filled by `M3VectorStore` or another way, with the three heads of M3.

    The score of a node is the fused score, or the reranker's: raw, not in [0, 1]. A query is encoded once, however
    many components ask for it. Custom embedding strings of a `QueryBundle` (HyDE) are joined and searched for in place
    of the query, which the reranker still reads.

    Args:
        retriever: The retriever, which knows the index and how to rank.
        similarity_top_k: Most nodes to return.
        k: The same under the name of `HybridRetriever.search`; wins if both are given.
        filters: LlamaIndex' metadata filters, neutral ones (`m3plugins.indexing.filters`), or the engine's own.
        weights: Weights in place of the retriever's own.
        reranker: A reranker in place of the retriever's own; False for none.
        similarity_cutoff: Lowest score of a node to return.
        per_parent: Most nodes of one source document to return.
        scores_key: A metadata field for the node's scores, say "m3": `score`, and one a head. Neither an embedding
            model nor an LLM gets to read it. A field of that name that the node has is under `own` in it. None (the
            default) leaves the metadata alone: they are in the hash of a
            `TextNode`, by which `QueryFusionRetriever` knows a node that it found twice.
        callback_manager: See `BaseRetriever`.
        object_map: See `BaseRetriever`.
        objects: See `BaseRetriever`.
        verbose: See `BaseRetriever`.

    Raises:
        ValueError: If a filter is one that no index can do.
    """

    def __init__(
        self,
        retriever: HybridRetriever,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        k: int | None = None,
        filters: MetadataFilters | AnyFilter | None = None,
        weights: HybridWeights | None = None,
        reranker: Reranker | Literal[False] | None = None,
        similarity_cutoff: float | None = None,
        per_parent: int | None = None,
        scores_key: str | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager, object_map, objects, verbose)
        self._retriever = retriever if reranker is None else replace(retriever, reranker=reranker or None)
        self._filter = to_filter(filters) if isinstance(filters, MetadataFilters) else filters
        self.similarity_top_k = similarity_top_k if k is None else k
        self.weights = weights
        self.similarity_cutoff = similarity_cutoff
        self.per_parent = per_parent
        self.scores_key = scores_key

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        text = "\n".join(query_bundle.embedding_strs)
        hits = self._retriever.search_embedded(
            query_bundle.query_str,
            self._retriever.index.encoder.memo.encode_queries([text]),
            self.similarity_top_k,
            filter=self._filter,
            weights=self.weights,
            min_score=self.similarity_cutoff,
            per_parent=self.per_parent,
        )
        return [self._scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _scored(self, hit: Hit) -> NodeWithScore:
        node, score = to_node(hit.document), float(hit.score)
        if self.scores_key is not None:
            own = {"own": node.metadata[self.scores_key]} if self.scores_key in node.metadata else {}
            heads = {head: float(value) for head, value in asdict(hit.scores).items() if value is not None}
            node = annotated(node, self.scores_key, {"score": score, **heads, **own})
        return NodeWithScore(node=node, score=score)
