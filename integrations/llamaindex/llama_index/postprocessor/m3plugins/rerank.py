"""M3 as a LlamaIndex reranker."""

from __future__ import annotations

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.embeddings.m3plugins.copies import copied
from llama_index.embeddings.m3plugins.encoder_fields import EncoderFields
from llama_index.vector_stores.m3plugins.nodes import annotated

from m3plugins import HybridWeights
from m3plugins.fusion import ranks
from m3plugins.reranking import M3Reranker

dispatcher = instrument.get_dispatcher(__name__)

RETRIEVAL_SCORE = "retrieval_score"
"""The metadata field of the score before, as LlamaIndex' own rerankers have it."""


class M3Rerank(EncoderFields, BaseNodePostprocessor):
    """Reranks nodes from any retriever by the weighted sum of M3's three exact scores of their EMBED text.

    The score is raw, mostly within [0, 3] with the default weights. Equal scores (within 1e-6) go by node id. What the
    encoder's memo remembers of the query and the texts is not computed again. The nodes that come in stay as they are.
    See `EncoderFields` for the arguments; besides those:

    Args:
        top_n: Most nodes to return.
        weights: Weight of each head.
        keep_retrieval_score: Whether to put the score before into the metadata, as `retrieval_score`, which neither an
            embedding model nor an LLM gets to read.
    """

    top_n: int = Field(default=2, gt=0, description="Number of nodes to return at most.")
    weights: HybridWeights = Field(default_factory=HybridWeights, description="Weight of each head.")
    keep_retrieval_score: bool = Field(default=False, description="Whether to keep the score before in the metadata.")

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "M3Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            msg = "a reranker needs the query; give query_bundle= or query_str="
            raise ValueError(msg)
        best: list[NodeWithScore] = []
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model_name)
        )
        try:
            with self.callback_manager.event(
                CBEventType.RERANKING,
                payload={
                    EventPayload.NODES: nodes,
                    EventPayload.MODEL_NAME: self.model_name,
                    EventPayload.QUERY_STR: query_bundle.query_str,
                    EventPayload.TOP_K: self.top_n,
                },
            ) as event:
                best = self._rerank(query_bundle.query_str, nodes)
                event.on_end(payload={EventPayload.NODES: best})
        finally:
            dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _rerank(self, query: str, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        reranker = M3Reranker(self.encoder.memo, weights=self.weights)
        texts = [each.node.get_content(MetadataMode.EMBED) for each in nodes]
        scores: list[float] = reranker.score(query, texts).tolist()
        order = sorted(zip(ranks(scores), [each.node_id for each in nodes], range(len(nodes)), strict=True))
        return [self._scored(nodes[row], scores[row]) for _, _, row in order[: self.top_n]]

    def _scored(self, before: NodeWithScore, score: float) -> NodeWithScore:
        keep = self.keep_retrieval_score
        node = annotated(before.node, RETRIEVAL_SCORE, before.score) if keep else copied(before.node)
        return NodeWithScore(node=node, score=score)
