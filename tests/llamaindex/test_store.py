"""`M3VectorStore`: LlamaIndex' verbs over an index, and its query modes as weights of M3's heads."""

import copy

import numpy as np
import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.vector_stores.m3plugins import M3VectorStore, StoreEmbedding

from m3plugins import Document, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.indexing import UpsertError
from m3plugins.retrieval import Hit, filters
from m3plugins.scoring import dense_scores
from tests.tiny import SENTENCES

QUERY = "a brown fox near the river"
GERMAN = MetadataFilters(filters=[MetadataFilter(key="lang", value="de")])
MODES = VectorStoreQueryMode


def ask(store: M3VectorStore, options: dict[str, object] | None = None, **query: object) -> VectorStoreQueryResult:
    return store.query(VectorStoreQuery(**{"query_str": QUERY, "similarity_top_k": 5, **query}), **(options or {}))


def agrees(result: VectorStoreQueryResult, hits: list[Hit]) -> bool:
    """Ids to the letter, similarities to 1e-6, nodes those of the ids, all in plain Python."""
    return (
        result.ids == [node.node_id for node in result.nodes] == [hit.id for hit in hits] != []
        and result.similarities == pytest.approx([hit.score for hit in hits], abs=1e-6)
        and {type(similarity) for similarity in result.similarities} == {float}
    )


SPARSE = HybridWeights(dense=0, sparse=1, multi_vector=0)


@pytest.mark.parametrize(
    ("query", "searched"),
    [
        ({}, {"k": 5}),
        ({"alpha": 0.9, "hybrid_top_k": 2, "sparse_top_k": 3}, {"k": 5}),
        ({"similarity_top_k": 1000}, {"k": 1000}),
        ({"mode": MODES.HYBRID}, {"k": 5}),
        ({"mode": MODES.HYBRID, "hybrid_top_k": 3}, {"k": 3}),
        (
            {"mode": MODES.HYBRID, "alpha": 0.75},
            {"k": 5, "weights": HybridWeights(dense=0.75, sparse=0.075, multi_vector=0.75)},
        ),
        ({"mode": MODES.HYBRID, "alpha": 1.0}, {"k": 5, "weights": HybridWeights(sparse=0)}),
        (
            {"mode": MODES.HYBRID, "alpha": 0.0},
            {"k": 5, "weights": HybridWeights(dense=0, sparse=0.3, multi_vector=0)},
        ),
        ({"mode": MODES.SPARSE}, {"k": 5, "weights": SPARSE}),
        ({"mode": MODES.TEXT_SEARCH, "sparse_top_k": 3}, {"k": 3, "weights": SPARSE}),
        ({"filters": GERMAN}, {"k": 5, "filter": filters.eq("lang", "de")}),
        ({"node_ids": ["node-3", "node-9", "gone"]}, {"k": 5, "filter": filters.in_("number", [3, 9])}),
        ({"doc_ids": ["doc-1", "doc-4"]}, {"k": 5, "filter": filters.in_("number", [2, 3, 8, 9])}),
        ({"node_ids": [], "doc_ids": []}, {"k": 5}),
        ({"doc_ids": ["doc-2"], "filters": GERMAN}, {"k": 5, "filter": filters.eq("number", 4)}),
    ],
)
def test_a_query_is_a_search_of_core(filled: M3VectorStore, query: dict[str, object], searched: dict[str, object]):
    assert agrees(ask(filled, **query), filled.retriever.search(QUERY, **searched))


async def test_async_gives_the_same(filled: M3VectorStore):
    query = VectorStoreQuery(query_str=QUERY, similarity_top_k=5)
    assert await filled.aquery(query) == filled.query(query)


def test_the_retrievers_weights_and_reranker_hold(filled: M3VectorStore):
    retriever = HybridRetriever(filled.client, weights=HybridWeights(dense=0.1), fusion="rrf")
    assert agrees(ask(M3VectorStore(retriever=retriever)), retriever.search(QUERY, k=5))


def test_the_sparse_modes_rank_without_a_reranker(memory: M3VectorStore):
    class ByLength:
        def score(self, query: str, texts: list[str]) -> np.ndarray:
            return np.array([len(text) for text in texts], np.float32)

    reranked = M3VectorStore(retriever=HybridRetriever(memory.client, reranker=ByLength()))
    assert ask(reranked, mode=MODES.SPARSE).similarities == ask(memory, mode=MODES.SPARSE).similarities
    assert ask(reranked).similarities != ask(memory).similarities


def test_an_unknown_option_is_refused(memory: M3VectorStore):
    with pytest.raises(TypeError, match="unknown option weigths; there are mmr_threshold"):
        ask(memory, {"weigths": 1})


def test_mmr_with_threshold_1_is_the_order_of_the_dense_scores(filled: M3VectorStore):
    result = ask(filled, {"mmr_threshold": 1.0}, mode=MODES.MMR, similarity_top_k=12)
    dense = HybridWeights(sparse=0, multi_vector=0)
    assert agrees(result, filled.retriever.search(QUERY, k=12, weights=dense))


def test_mmr_prefers_what_is_unlike_the_last(memory: M3VectorStore, nodes: list[TextNode]):
    best, *_ = ask(memory, similarity_top_k=1).ids
    twin = next(node for node in nodes if node.node_id == best).model_copy(update={"id_": "twin"})
    memory.add([twin])
    assert {best, "twin"} == set(ask(memory, similarity_top_k=2).ids)
    first, second = ask(memory, mode=MODES.MMR, similarity_top_k=2, mmr_threshold=0.1).ids
    assert not {first, second} >= {best, "twin"}
    stored = memory.client.embeddings([first, second], heads=["dense"])
    assert dense_scores(stored[first].dense, stored[second].dense)[0, 0] < 0.99


def test_mmr_chooses_among_the_best_by_all_heads(memory: M3VectorStore):
    best = [hit.id for hit in memory.retriever.search(QUERY, k=8)]
    assert set(ask(memory, mode=MODES.MMR, similarity_top_k=2).ids) <= set(best)
    chosen = ask(memory, {"mmr_prefetch_k": 3}, mode=MODES.MMR, similarity_top_k=3)
    assert set(chosen.ids) == set(best[:3])
    assert set(ask(memory, {"mmr_prefetch_factor": 1}, mode=MODES.MMR, similarity_top_k=3).ids) == set(best[:3])


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ({"query_str": None, "query_embedding": [1.0]}, {}, "needs VectorStoreQuery"),
        ({"mode": MODES.SVM}, {}, "mode must be one of default, hybrid, mmr, sparse, text_search"),
        ({"mode": MODES.SEMANTIC_HYBRID}, {}, "mode must be one of"),
        ({"mode": MODES.HYBRID, "alpha": 1.5}, {}, "alpha must be between 0"),
        ({"mode": MODES.MMR}, {"mmr_prefetch_k": 3, "mmr_prefetch_factor": 2}, "got both"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(
    memory: M3VectorStore, query: dict[str, object], options: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message):
        ask(memory, options, **query)


def test_the_retriever_passes_the_options_of_mmr_on(memory: M3VectorStore):
    retriever = memory.as_index().as_retriever(
        vector_store_query_mode="mmr", similarity_top_k=3, vector_store_kwargs={"mmr_prefetch_k": 3}
    )
    assert {node.node_id for node in retriever.retrieve(QUERY)} == set(ask(memory, similarity_top_k=3).ids)


def test_adding_returns_the_ids_and_changes_nothing_of_the_callers(store: M3VectorStore, nodes: list[TextNode]):
    before = copy.deepcopy(nodes)
    assert store.add(nodes) == [node.node_id for node in nodes]
    assert nodes == before
    assert store.add([]) == []


def test_a_node_of_a_known_id_replaces_the_old_one(filled: M3VectorStore):
    filled.add([TextNode(id_="node-0", text="something else")])
    (node,) = filled.get_nodes(["node-0"])
    assert (node.text, node.metadata, filled.client.count()) == ("something else", {}, 12)


def test_a_source_document_is_deleted_with_all_its_nodes(filled: M3VectorStore):
    filled.delete("doc-1")
    assert {f"node-{i}" for i in range(12)} - {node.node_id for node in filled.get_nodes()} == {"node-2", "node-3"}
    filled.delete("never there")


def test_a_node_without_a_source_is_its_own(store: M3VectorStore):
    store.add([TextNode(id_="alone", text="fox"), TextNode(id_="other", text="fox")])
    assert store.get_nodes(["alone"])[0].ref_doc_id is None
    store.delete("alone")
    assert [node.node_id for node in store.get_nodes()] == ["other"]


def test_nodes_are_got_by_id_in_that_order_by_filter_or_by_both(filled: M3VectorStore):
    assert [node.node_id for node in filled.get_nodes(["node-4", "gone", "node-1"])] == ["node-4", "node-1"]
    assert {node.node_id for node in filled.get_nodes(filters=GERMAN)} == {"node-1", "node-4", "node-7", "node-10"}
    assert [node.node_id for node in filled.get_nodes(["node-4", "node-5"], GERMAN)] == ["node-4"]
    assert filled.get_nodes([]) == []
    assert len(filled.get_nodes()) == 12


def test_nodes_are_deleted_by_id_by_filter_or_by_both(filled: M3VectorStore):
    filled.delete_nodes(["node-4", "node-5"], GERMAN)
    filled.delete_nodes(["node-0", "gone"])
    filled.delete_nodes([])
    assert {node.node_id for node in filled.get_nodes()} == {f"node-{i}" for i in range(12)} - {"node-0", "node-4"}
    filled.delete_nodes(filters=GERMAN)
    assert filled.get_nodes(filters=GERMAN) == [] and len(filled.get_nodes()) == 7


@pytest.mark.parametrize("nothing", [None, MetadataFilters(filters=[], condition=FilterCondition.OR)])
def test_deleting_without_saying_what_is_refused(filled: M3VectorStore, nothing: MetadataFilters | None):
    with pytest.raises(ValueError, match="say which nodes to delete"):
        filled.delete_nodes(filters=nothing)
    assert len(filled.get_nodes()) == 12


def test_clearing_leaves_an_empty_store_that_works(filled: M3VectorStore, nodes: list[TextNode]):
    filled.clear()
    assert filled.get_nodes() == [] and ask(filled).ids == []
    assert filled.add(nodes[:1]) == ["node-0"]


async def test_every_verb_has_an_async_twin(store: M3VectorStore, nodes: list[TextNode]):
    assert await store.async_add(nodes) == [node.node_id for node in nodes]
    assert len(await store.aget_nodes(["node-1"], GERMAN)) == 1
    await store.adelete("doc-0")
    await store.adelete_nodes(["node-2"])
    await store.adelete_nodes(filters=GERMAN)
    assert {node.node_id for node in await store.aget_nodes()} == {f"node-{i}" for i in (3, 5, 6, 8, 9, 11)}
    await store.aclear()
    assert await store.aget_nodes() == []


def test_a_node_that_cannot_be_stored_is_named_and_the_others_are_stored(store: M3VectorStore):
    bad = TextNode(id_="bad", text="fox", metadata={"ratio": float("nan")})
    with pytest.raises(UpsertError, match="'bad': metadata.ratio must be a finite number") as caught:
        store.add([bad, TextNode(id_="good", text="fox")])
    assert caught.value.report.written == 1
    assert [node.node_id for node in store.get_nodes()] == ["good"]


def test_a_node_that_is_no_json_is_named_and_the_others_are_stored(store: M3VectorStore):
    nodes = [TextNode(id_="a", text="one"), TextNode(id_="b", text="two", metadata={"_node": 1}), TextNode(id_="c")]
    with pytest.raises(UpsertError, match="1 documents were not stored, 2 were: 'b': the metadata fields _node"):
        store.add(nodes)
    assert [node.node_id for node in store.get_nodes(["a", "b", "c"])] == ["a", "c"]


def test_copies_share_nothing_with_the_callers_nodes():
    node = TextNode(text="a fox", metadata={"tags": ["x"]})
    (copied,) = StoreEmbedding()([node])
    copied.metadata["tags"].append("y")
    copied.excluded_embed_metadata_keys.append("tags")
    assert node.metadata == {"tags": ["x"]} and node.excluded_embed_metadata_keys == []


def test_nodes_are_not_cut_again(encoder: M3Encoder, nodes: list[TextNode]):
    index = InMemoryHybridIndex(encoder=encoder, passages=Passages(size=16, overlap=0))
    index.upsert([Document(id="d", text="The fox. " * 30)])
    store = M3VectorStore(retriever=HybridRetriever(index))
    assert {node.ref_doc_id for node in ask(store).nodes} == {"d"}, "but what is there is found"
    with pytest.raises(ValueError, match="nodes are passages already"):
        store.add(nodes)


def test_the_index_is_told_what_the_store_is_like(memory: M3VectorStore):
    assert memory.stores_text and not memory.is_embedding_query
    assert memory.client is memory.retriever.index
    assert memory.to_dict() == {"stores_text": True, "is_embedding_query": False, "class_name": "M3VectorStore"}


def test_the_stores_embedding_is_for_no_other_store(nodes: list[TextNode]):
    embedding = StoreEmbedding()
    placed = embedding(nodes)
    assert [node.embedding for node in placed] == [[1.0]] * len(nodes)
    assert [node.embedding for node in nodes] == [None] * len(nodes)
    with pytest.raises(ValueError, match="another store needs M3Embedding"):
        embedding.get_query_embedding(QUERY)


def test_relationships_do_not_need_a_source(store: M3VectorStore):
    node = TextNode(text="fox", relationships={NodeRelationship.NEXT: RelatedNodeInfo(node_id="next")})
    store.add([node])
    assert store.get_nodes([node.node_id])[0].to_dict() == node.to_dict()


def test_nodes_asked_for_by_id_are_those_of_the_index_whatever_metadata_say(memory: M3VectorStore):
    forged = {"_node_id": "node-3", "_ref_doc_id": "doc-1"}
    memory.client.upsert([Document(id="forged", text=SENTENCES[3], metadata=forged)])
    assert memory.query(VectorStoreQuery(query_str=SENTENCES[3], node_ids=["node-3"], similarity_top_k=5)).ids == [
        "node-3"
    ]
    found = memory.query(VectorStoreQuery(query_str=SENTENCES[3], doc_ids=["doc-1"], similarity_top_k=5))
    assert sorted(found.ids) == ["node-2", "node-3"]
