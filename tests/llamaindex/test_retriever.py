"""`M3Retriever`: core's ranking, to the digit, as LlamaIndex nodes."""

from pathlib import Path

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.reranking import M3Reranker
from m3plugins.retrieval import filters
from tests.llamaindex.conftest import Passes

QUERY = "a brown fox near the river"
GERMAN = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])


def found(nodes: list[NodeWithScore]) -> list[tuple[str, float]]:
    return [(node.node_id, node.score) for node in nodes]


@pytest.mark.parametrize(
    ("options", "searched"),
    [
        ({}, {"k": 2}),
        ({"similarity_top_k": 5}, {"k": 5}),
        ({"k": 5}, {"k": 5}),
        ({"k": 100}, {"k": 100}),
        ({"k": 4, "filters": GERMAN}, {"k": 4, "filter": filters.eq("lang", "de")}),
        ({"k": 4, "filters": filters.gte("number", 6)}, {"k": 4, "filter": filters.gte("number", 6)}),
        ({"k": 4, "weights": HybridWeights(dense=0.2)}, {"k": 4, "weights": HybridWeights(dense=0.2)}),
        ({"k": 12, "similarity_cutoff": 1.0}, {"k": 12, "min_score": 1.0}),
        ({"k": 4, "per_parent": 1}, {"k": 4, "per_parent": 1}),
    ],
)
def test_ids_and_scores_are_those_of_core(
    filled: M3VectorStore, options: dict[str, object], searched: dict[str, object]
):
    hits = filled.retriever.search(QUERY, **searched)
    nodes = M3Retriever(filled.retriever, **options).retrieve(QUERY)
    assert [node.node_id for node in nodes] == [hit.id for hit in hits] != []
    assert [node.score for node in nodes] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert {type(node.score) for node in nodes} == {float}


async def test_async_gives_the_same(filled: M3VectorStore):
    retriever = M3Retriever(filled.retriever, k=5)
    assert found(await retriever.aretrieve(QUERY)) == found(retriever.retrieve(QUERY))


def test_nodes_are_those_that_were_added(filled: M3VectorStore, nodes: list[TextNode]):
    added = {node.node_id: node.to_dict() for node in nodes}
    for node in M3Retriever(filled.retriever, k=12).retrieve(QUERY):
        assert node.node.to_dict() == added[node.node_id]


def test_a_reranker_has_the_last_word_and_stays_with_its_retriever(filled: M3VectorStore):
    reranker = M3Reranker(filled.client.encoder, weights=HybridWeights(dense=0, sparse=1, multi_vector=0))
    nodes = M3Retriever(filled.retriever, k=5, reranker=reranker).retrieve(QUERY)
    hits = HybridRetriever(filled.client, reranker=reranker).search(QUERY, k=5)
    assert [node.node_id for node in nodes] == [hit.id for hit in hits]
    assert [node.score for node in nodes] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert filled.retriever.reranker is None


def test_scores_in_the_metadata_are_for_the_caller_only(memory: M3VectorStore):
    hits = memory.retriever.search(QUERY, k=3)
    for node, hit in zip(M3Retriever(memory.retriever, k=3, scores_key="m3").retrieve(QUERY), hits, strict=True):
        heads = {"dense": hit.scores.dense, "sparse": hit.scores.sparse, "multi_vector": hit.scores.multi_vector}
        assert node.metadata["m3"] == pytest.approx({"score": hit.score, **heads}, abs=1e-6)
        assert {type(score) for score in node.metadata["m3"].values()} == {float}
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert "m3" not in node.node.get_content(mode)
    assert "m3" not in memory.get_nodes(["node-0"])[0].metadata


def test_scores_go_before_a_metadata_field_of_their_name_which_is_kept_in_them(memory: M3VectorStore):
    for node in M3Retriever(memory.retriever, scores_key="lang").retrieve(QUERY):
        scores = node.metadata["lang"]
        assert scores["score"] == node.score and scores["own"] in ("en", "de", "fr")


def test_documents_that_core_indexed_are_found_too(encoder: M3Encoder):
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert([Document(id="a", title="Fox", text="It jumps.", metadata={"lang": "en"}, parent_id="p")])
    (node,) = M3Retriever(HybridRetriever(index)).retrieve(QUERY)
    assert (node.node_id, node.node.ref_doc_id, node.metadata) == ("a", "p", {"lang": "en"})


def test_a_filter_in_the_engines_own_language_reaches_it(tmp_path: Path, encoder: M3Encoder, nodes: list[TextNode]):
    from m3plugins_milvus import MilvusHybridIndex

    with MilvusHybridIndex.create("own", encoder=encoder, uri=str(tmp_path / "m3.db")) as index:
        retriever = HybridRetriever(index)
        M3VectorStore(retriever=retriever).add(nodes)
        (node,) = M3Retriever(retriever, k=5, filters='metadata["number"] == 3').retrieve(QUERY)
        assert node.node_id == "node-3"


def test_events_are_paired_and_carry_the_nodes(memory: M3VectorStore):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    M3Retriever(memory.retriever, callback_manager=CallbackManager([handler])).retrieve(QUERY)
    ((start, end),) = handler.get_event_pairs(CBEventType.RETRIEVE)
    assert start.payload["query_str"] == QUERY
    assert len(end.payload["nodes"]) == 2


def test_strings_to_embed_in_place_of_the_query_are_searched_for(memory: M3VectorStore):
    """What `HyDEQueryTransform` does."""
    retriever = M3Retriever(memory.retriever, k=3)
    bundle = QueryBundle(QUERY, custom_embedding_strs=["ein Fuchs", "springt"])
    assert found(retriever.retrieve(bundle)) == found(retriever.retrieve("ein Fuchs\nspringt"))
    transformed = HyDEQueryTransform(llm=MockLLM(max_tokens=4)).run(QUERY)
    assert found(retriever.retrieve(transformed)) != found(retriever.retrieve(QUERY))


def test_fusion_with_another_retriever_adds_up_what_both_found(memory: M3VectorStore):
    retrievers: list[BaseRetriever] = [
        M3Retriever(memory.retriever, k=12),
        M3Retriever(memory.retriever, k=12, weights=HybridWeights(sparse=0)),
    ]
    ranks = [[node.node_id for node in retriever.retrieve(QUERY)] for retriever in retrievers]
    expected = {i: sum(1 / (60 + ranked.index(i)) for ranked in ranks) for i in ranks[0]}
    fusion = QueryFusionRetriever(
        retrievers, llm=MockLLM(), num_queries=1, use_async=False, mode="reciprocal_rerank", similarity_top_k=12
    )
    assert dict(found(fusion.retrieve(QUERY))) == pytest.approx(expected)
    for retriever in retrievers:
        retriever.scores_key = "m3"
    assert dict(found(fusion.retrieve(QUERY))) != pytest.approx(expected), "which is why they are off by default"


def test_an_index_node_leads_to_its_object(encoder: M3Encoder):
    store = M3VectorStore(retriever=HybridRetriever(InMemoryHybridIndex(encoder=encoder)))
    summary, inner = IndexNode(text="all about the fox", index_id="foxes"), TextNode(text="inner")
    store.add([summary])
    (node,) = M3Retriever(store.retriever, object_map={"foxes": inner}).retrieve(QUERY)
    assert node.node is inner


def test_a_query_engine_answers_from_it(memory: M3VectorStore):
    engine = RetrieverQueryEngine.from_args(
        M3Retriever(memory.retriever, k=3),
        llm=MockLLM(),
        node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.0)],
    )
    response = engine.query(QUERY)
    assert response.source_nodes and response.source_nodes[0].node.text in str(response)


def test_a_query_is_one_pass_whoever_asks(memory: M3VectorStore, passes: Passes):
    retriever = M3Retriever(memory.retriever)
    for ask in (retriever.retrieve, memory.as_index().as_retriever().retrieve, retriever.retrieve):
        ask(QUERY)
    assert passes.total() == 1


@pytest.mark.parametrize("weights", [HybridWeights(dense=0, multi_vector=0), HybridWeights(sparse=0, multi_vector=0)])
def test_one_head_is_enough(memory: M3VectorStore, weights: HybridWeights):
    nodes = M3Retriever(memory.retriever, weights=weights, scores_key="m3").retrieve(QUERY)
    assert list(nodes[0].metadata["m3"]) == ["score", *weights.heads]
