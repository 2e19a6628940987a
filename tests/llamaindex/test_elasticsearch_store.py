"""Both heads of M3 in LlamaIndex' own Elasticsearch store, on a node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

pytest.importorskip("llama_index.vector_stores.elasticsearch", reason="LlamaIndex' Elasticsearch store is an extra")
pytest.importorskip("m3plugins_elasticsearch")

from elasticsearch import AsyncElasticsearch
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores.types import ExactMatchFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.m3plugins import StoreEmbedding
from llama_index.vector_stores.m3plugins.elasticsearch import M3ElasticsearchStore

from m3plugins import HybridWeights, M3Encoder
from m3plugins.scoring import head_scores
from tests.llamaindex.conftest import Passes
from tests.tiny import SENTENCES

pytestmark = pytest.mark.elasticsearch9

QUERY = "a quick fox jumps"
GERMAN = MetadataFilters(filters=[ExactMatchFilter(key="lang", value="de")])


@pytest.fixture
async def store(encoder: M3Encoder, es_url: str, es_name: str) -> AsyncIterator[M3ElasticsearchStore]:
    async with AsyncElasticsearch(es_url) as client:
        yield M3ElasticsearchStore(es_name, encoder=encoder, es_client=client)


def best_first(encoder: M3Encoder, nodes: list[TextNode], query: str) -> list[str]:
    texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
    exact = head_scores(encoder.encode_queries([query]), encoder.encode_documents(texts))
    weights = HybridWeights()
    summed = [weights.dense * score.dense + weights.sparse * score.sparse for score in exact]
    return [nodes[place].node_id for place in sorted(range(len(nodes)), key=lambda place: -summed[place])]


async def test_order_is_m3s_own(store: M3ElasticsearchStore, encoder: M3Encoder, nodes: list[TextNode]):
    assert await store.async_add(nodes) == [node.node_id for node in nodes]
    for query in (QUERY, SENTENCES[4], "zzz"):
        found = await store.aquery(VectorStoreQuery(query_str=query, similarity_top_k=len(nodes)))
        assert found.ids == best_first(encoder, nodes, query)
        assert [node.node_id for node in found.nodes] == found.ids
        assert found.similarities[0] == 1.0


async def test_nodes_come_back_as_they_were(store: M3ElasticsearchStore, nodes: list[TextNode]):
    await store.async_add(nodes)
    found = await store.aquery(VectorStoreQuery(query_str=SENTENCES[3], similarity_top_k=1))
    (node,) = found.nodes
    assert (node.node_id, node.text, node.metadata) == (nodes[3].node_id, nodes[3].text, nodes[3].metadata)
    assert node.ref_doc_id == nodes[3].ref_doc_id


async def test_filters_are_honoured(store: M3ElasticsearchStore, nodes: list[TextNode]):
    await store.async_add(nodes)
    found = await store.aquery(VectorStoreQuery(query_str=QUERY, similarity_top_k=99, filters=GERMAN))
    assert {node.node_id for node in found.nodes} == {node.node_id for node in nodes if node.metadata["lang"] == "de"}


async def test_deleted_nodes_are_gone(store: M3ElasticsearchStore, nodes: list[TextNode]):
    await store.async_add(nodes)
    await store.adelete_nodes(["node-3"])
    found = await store.aquery(VectorStoreQuery(query_str=SENTENCES[3], similarity_top_k=99))
    assert set(found.ids) == {node.node_id for node in nodes} - {"node-3"}


async def test_an_index_needs_no_embed_model_and_a_node_costs_one_pass(
    store: M3ElasticsearchStore, nodes: list[TextNode], passes: Passes
):
    index = VectorStoreIndex.from_vector_store(store, embed_model=StoreEmbedding(), use_async=True)
    await index.ainsert_nodes(nodes)
    found = await index.as_retriever(similarity_top_k=2).aretrieve(SENTENCES[4])
    assert found[0].node_id == "node-4"
    embedded_by_the_store_itself = 1  # to see how wide the vectors are
    assert len(passes) == len(nodes) + embedded_by_the_store_itself + 1
    assert set(passes.values()) == {1}


async def test_nothing_to_add_is_nothing_done(store: M3ElasticsearchStore, es_name: str):
    assert await store.async_add([]) == []
    assert not await store.client.indices.exists(index=es_name)


def test_the_class_is_a_stock_store(encoder: M3Encoder):
    assert "ElasticsearchStore" in [base.__name__ for base in M3ElasticsearchStore.__mro__]
    assert M3ElasticsearchStore.class_name() == "M3ElasticsearchStore"
