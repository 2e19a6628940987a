"""`M3Rerank`: the reranker of core as a postprocessor."""

from collections.abc import Iterator

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.m3plugins import M3Rerank
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import HybridRetriever, HybridWeights, M3Encoder
from m3plugins.reranking import M3Reranker
from tests.llamaindex.conftest import Passes

QUERY = "a brown fox near the river"


class Heard(BaseEventHandler):
    events: list[BaseEvent] = []

    def handle(self, event: BaseEvent, **kwargs: object) -> None:
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self.events.append(event)


@pytest.fixture
def heard() -> Iterator[list[BaseEvent]]:
    handler, root = Heard(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.events
    root.event_handlers.remove(handler)


@pytest.fixture
def scored(nodes: list[TextNode]) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=float(rank)) for rank, node in enumerate(nodes)]


def test_order_and_scores_are_those_of_core(encoder: M3Encoder, scored: list[NodeWithScore]):
    weights = HybridWeights(dense=0.5, sparse=1.0, multi_vector=0.1)
    texts = [each.node.get_content(MetadataMode.EMBED) for each in scored]
    expected = M3Reranker(encoder, weights=weights).score(QUERY, texts)
    best = M3Rerank(encoder=encoder, top_n=4, weights=weights).postprocess_nodes(scored, query_str=QUERY)
    assert [each.score for each in best] == pytest.approx(sorted(expected, reverse=True)[:4], abs=1e-6)
    assert best[0].node_id == scored[expected.argmax()].node_id
    assert {type(each.score) for each in best} == {float}


def test_after_the_store_it_agrees_with_reranking_in_core(filled: M3VectorStore):
    encoder = filled.client.encoder
    hits = HybridRetriever(filled.client, reranker=M3Reranker(encoder), rerank_depth=12).search(QUERY, k=5)
    nodes = M3Retriever(filled.retriever, k=12).retrieve(QUERY)
    best = M3Rerank(encoder=encoder, top_n=5).postprocess_nodes(nodes, query_str=QUERY)
    assert [each.node_id for each in best] == [hit.id for hit in hits]
    assert [each.score for each in best] == pytest.approx([hit.score for hit in hits], abs=1e-6)


async def test_async_gives_the_same(encoder: M3Encoder, scored: list[NodeWithScore]):
    rerank = M3Rerank(encoder=encoder, top_n=4)
    best = rerank.postprocess_nodes(scored, QueryBundle(QUERY))
    assert await rerank.apostprocess_nodes(scored, QueryBundle(QUERY)) == best


@pytest.mark.parametrize("keep", [True, False])
def test_the_nodes_that_come_in_stay_as_they_are(encoder: M3Encoder, scored: list[NodeWithScore], keep: bool):
    before = [each.model_dump() for each in scored]
    best = M3Rerank(encoder=encoder, top_n=12, keep_retrieval_score=keep).postprocess_nodes(scored, query_str=QUERY)
    best[0].node.set_content("something else")
    best[0].score = -1.0
    assert [each.model_dump() for each in scored] == before


def test_the_score_before_is_kept_for_the_caller_only(encoder: M3Encoder, scored: list[NodeWithScore]):
    before = {each.node_id: each for each in scored}
    rerank = M3Rerank(encoder=encoder, top_n=3, keep_retrieval_score=True)
    for each in rerank.postprocess_nodes(scored, query_str=QUERY):
        assert each.metadata["retrieval_score"] == before[each.node_id].score
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert each.get_content(mode) == before[each.node_id].get_content(mode)


def test_equal_scores_go_by_node_id(encoder: M3Encoder):
    nodes = [NodeWithScore(node=TextNode(id_=name, text="the fox")) for name in "cab"]
    best = M3Rerank(encoder=encoder, top_n=3).postprocess_nodes(nodes, query_str=QUERY)
    assert [each.node_id for each in best] == ["a", "b", "c"]


def test_a_node_that_comes_twice_is_scored_twice(encoder: M3Encoder, scored: list[NodeWithScore]):
    best = M3Rerank(encoder=encoder, top_n=5).postprocess_nodes([scored[0], scored[0]], query_str=QUERY)
    assert [each.node_id for each in best] == ["node-0", "node-0"]


@pytest.mark.parametrize("count", [0, 1, 12])
def test_events_are_paired(encoder: M3Encoder, scored: list[NodeWithScore], heard: list[BaseEvent], count: int):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = M3Rerank(encoder=encoder, top_n=3, callback_manager=CallbackManager([handler]))
    best = rerank.postprocess_nodes(scored[:count], query_str=QUERY)
    start, end = heard
    assert (start.query.query_str, start.nodes, start.top_n, start.model_name) == (
        QUERY,
        scored[:count],
        3,
        encoder.model,
    )
    assert end.nodes == best and len(best) == min(count, 3)
    ((began, ended),) = handler.get_event_pairs(CBEventType.RERANKING)
    assert [began.payload[key] for key in ("query_str", "top_k", "model_name")] == [QUERY, 3, encoder.model]
    assert ended.payload["nodes"] == best


def test_events_are_paired_where_it_fails(
    scored: list[NodeWithScore], heard: list[BaseEvent], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = M3Rerank(model="no/such-model", callback_manager=CallbackManager([handler]))
    with pytest.raises(FileNotFoundError, match="no/such-model"):
        rerank.postprocess_nodes(scored, query_str=QUERY)
    assert [type(event) for event in heard] == [ReRankStartEvent, ReRankEndEvent]
    assert len(handler.get_event_pairs(CBEventType.RERANKING)) == 1


def test_a_reranker_without_a_query_is_refused(encoder: M3Encoder, scored: list[NodeWithScore], heard: list[BaseEvent]):
    with pytest.raises(ValueError, match="a reranker needs the query"):
        M3Rerank(encoder=encoder).postprocess_nodes(scored)
    assert not heard


def test_what_is_remembered_is_not_computed_again(encoder: M3Encoder, scored: list[NodeWithScore], passes: Passes):
    rerank = M3Rerank(encoder=encoder)
    for _ in range(2):
        rerank.postprocess_nodes(scored, query_str=QUERY)
    assert set(passes.values()) == {1} and len(passes) == len(scored) + 1


@pytest.mark.parametrize("top_n", [0, -1])
def test_top_n_must_be_positive(encoder: M3Encoder, top_n: int):
    with pytest.raises(ValueError, match="top_n"):
        M3Rerank(encoder=encoder, top_n=top_n)
