"""What goes wrong says so, in the words of the core, and leaves everything else as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.indexing import HybridIndex, UpsertError
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.milvus.gateway import gateway

QUERY = "a brown fox near the river"
CALLS: dict[str, Callable[[M3VectorStore], object]] = {
    "retrieve": lambda store: M3Retriever(store.retriever).retrieve(QUERY),
    "query": lambda store: store.query(VectorStoreQuery(query_str=QUERY)),
    "add": lambda store: store.add([TextNode(text="fox")]),
    "delete": lambda store: store.delete("doc-0"),
    "delete_nodes": lambda store: store.delete_nodes(["node-0"]),
    "get_nodes": lambda store: store.get_nodes(["node-0"]),
    "clear": lambda store: store.clear(),
}


@pytest.mark.parametrize("engine", ["memory", "milvus"])
def test_a_closed_index(encoder: M3Encoder, tmp_path: Path, engine: str):
    index: HybridIndex = (
        InMemoryHybridIndex(encoder=encoder)
        if engine == "memory"
        else MilvusHybridIndex.create("closed", encoder=encoder, uri=str(tmp_path / "m3.db"))
    )
    index.close()
    store = M3VectorStore(retriever=HybridRetriever(index))
    for call in CALLS.values():
        with pytest.raises(ValueError, match="closed"):
            call(store)


def test_an_engine_that_is_gone(encoder: M3Encoder, tmp_path: Path, nodes: list[TextNode]):
    with gateway(tmp_path / "m3.db") as server:
        index = MilvusHybridIndex.create("docs", encoder=encoder, uri=server.uri)
        store = M3VectorStore(retriever=HybridRetriever(index))
        store.add(nodes)
    with pytest.raises(MilvusIndexError):
        CALLS["retrieve"](store)


def test_an_empty_query_finds_by_what_is_left_of_it(filled: M3VectorStore):
    assert len(M3Retriever(filled.retriever, k=3).retrieve("")) == 3
    assert len(filled.query(VectorStoreQuery(query_str="", similarity_top_k=3)).ids) == 3


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_that_is_no_positive_integer(filled: M3VectorStore, k: int):
    for ask in (
        M3Retriever(filled.retriever, similarity_top_k=k).retrieve,
        filled.as_index().as_retriever(similarity_top_k=k).retrieve,
        filled.as_index().as_retriever(similarity_top_k=k, vector_store_query_mode="mmr").retrieve,
    ):
        with pytest.raises(ValueError, match="must be a positive integer"):
            ask(QUERY)


def test_a_k_beyond_the_corpus_gives_all(filled: M3VectorStore):
    assert len(M3Retriever(filled.retriever, k=1000).retrieve(QUERY)) == 12
    assert len(filled.as_index().as_retriever(similarity_top_k=1000).retrieve(QUERY)) == 12


def test_an_empty_index_gives_nothing(store: M3VectorStore):
    assert M3Retriever(store.retriever).retrieve(QUERY) == []
    for mode in ("default", "hybrid", "sparse", "mmr"):
        result = store.query(VectorStoreQuery(query_str=QUERY, mode=mode))
        assert (result.nodes, result.similarities, result.ids) == ([], [], [])


@pytest.mark.parametrize("filters", [{"lang": "de"}, ["lang"], 3])
def test_a_filter_of_the_wrong_type(filled: M3VectorStore, filters: object):
    with pytest.raises(TypeError, match="filter"):
        M3Retriever(filled.retriever, filters=filters).retrieve(QUERY)
    for call in (
        lambda: filled.query(VectorStoreQuery(query_str=QUERY, filters=filters)),
        lambda: filled.get_nodes(filters=filters),
        lambda: filled.delete_nodes(filters=filters),
    ):
        with pytest.raises(TypeError, match="filters must be MetadataFilters"):
            call()


def test_a_node_without_text(filled: M3VectorStore):
    filled.add([TextNode(id_="blank", text=""), TextNode(id_="only metadata", text="", metadata={"file": "a.txt"})])
    found = {node.node_id: node for node in M3Retriever(filled.retriever, k=20).retrieve(QUERY)}
    assert len(found) == 14 and found["blank"].text == found["only metadata"].text == ""


def test_metadata_beyond_what_the_engine_can_keep(store: M3VectorStore):
    node = TextNode(id_="big", text="fox", metadata={"long": "x" * 70_000}, excluded_embed_metadata_keys=["long"])
    if isinstance(store.client, InMemoryHybridIndex):
        assert store.add([node]) == ["big"]
    else:
        with pytest.raises(UpsertError, match="'big': metadata must be at most 65,536 bytes"):
            store.add([node])
