"""Async calls leave the event loop free, may be cancelled, and share their work."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.embeddings.m3plugins import M3Embedding, M3NodeEncoder
from llama_index.postprocessor.m3plugins import M3Rerank
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.sparse_embeddings.m3plugins import M3SparseEmbedding
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import Document, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.indexing import Candidate, UpsertReport
from tests.llamaindex.conftest import Passes, sentence_nodes
from tests.tiny import SENTENCES

QUERY = "a brown fox near the river"


class Gate:
    """Holds a call back until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(20), "nobody opened the gate: the event loop is blocked"

    async def is_reached(self) -> None:
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


class GatedIndex(InMemoryHybridIndex):
    """An engine that takes as long as the test wants."""

    gate: Callable[[], None] = staticmethod(lambda: None)

    def upsert(self, documents: Iterable[Document], *args: Any, **kwargs: Any) -> UpsertReport:
        self.gate()
        return super().upsert(documents, *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> int:
        self.gate()
        return super().delete(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> list[Document]:
        self.gate()
        return super().get(*args, **kwargs)

    def scan(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        self.gate()
        return super().scan(*args, **kwargs)

    def candidates(self, *args: Any, **kwargs: Any) -> dict[str, list[Candidate]]:
        self.gate()
        return super().candidates(*args, **kwargs)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def slow(encoder: M3Encoder, gate: Gate) -> M3VectorStore:
    """A filled store whose engine waits at the gate."""
    index = GatedIndex(encoder=encoder)
    store = M3VectorStore(retriever=HybridRetriever(index))
    store.add(sentence_nodes())
    index.gate = gate
    return store


@pytest.fixture
def slow_model(encoder: M3Encoder, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> M3Encoder:
    """An encoder whose model waits at the gate."""
    encoder.memo.clear()
    encode = LoadedModel.encode
    monkeypatch.setattr(LoadedModel, "encode", lambda *args: gate() or encode(*args))
    return encoder


OF_THE_STORE: dict[str, Callable[[M3VectorStore], Awaitable[object]]] = {
    "add": lambda store: store.async_add([TextNode(text="fox")]),
    "delete": lambda store: store.adelete("doc-0"),
    "delete_nodes": lambda store: store.adelete_nodes(["node-0"]),
    "get_nodes": lambda store: store.aget_nodes(["node-0"]),
    "get all nodes": lambda store: store.aget_nodes(),
    "clear": lambda store: store.aclear(),
    "query": lambda store: store.aquery(VectorStoreQuery(query_str=QUERY)),
    "retrieve": lambda store: M3Retriever(store.retriever).aretrieve(QUERY),
    "retrieve from the index": lambda store: store.as_index().as_retriever().aretrieve(QUERY),
    "insert into the index": lambda store: store.as_index().ainsert_nodes([TextNode(text="fox")]),
}

OF_THE_MODEL: dict[str, Callable[[M3Encoder], Awaitable[object]]] = {
    "query embedding": lambda encoder: M3Embedding(encoder=encoder).aget_query_embedding(QUERY),
    "text embedding": lambda encoder: M3Embedding(encoder=encoder).aget_text_embedding(QUERY),
    "text embeddings": lambda encoder: M3Embedding(encoder=encoder).aget_text_embedding_batch(SENTENCES),
    "embedded nodes": lambda encoder: M3Embedding(encoder=encoder).acall(sentence_nodes()),
    "encoded nodes": lambda encoder: M3NodeEncoder(encoder=encoder).acall(sentence_nodes()),
    "sparse query embedding": lambda encoder: M3SparseEmbedding(encoder=encoder).aget_query_embedding(QUERY),
    "sparse text embedding": lambda encoder: M3SparseEmbedding(encoder=encoder).aget_text_embedding(QUERY),
    "sparse text embeddings": lambda encoder: M3SparseEmbedding(encoder=encoder).aget_text_embedding_batch(SENTENCES),
    "reranking": lambda encoder: M3Rerank(encoder=encoder).apostprocess_nodes(
        [NodeWithScore(node=node) for node in sentence_nodes()], query_str=QUERY
    ),
}


@pytest.mark.parametrize("call", OF_THE_STORE.values(), ids=OF_THE_STORE)
async def test_a_slow_engine_does_not_hold_the_event_loop(
    slow: M3VectorStore, gate: Gate, call: Callable[[M3VectorStore], Awaitable[object]]
):
    task = asyncio.ensure_future(call(slow))
    await gate.is_reached()
    assert not task.done()
    gate.opened.set()
    await task


@pytest.mark.parametrize("call", OF_THE_MODEL.values(), ids=OF_THE_MODEL)
async def test_a_slow_model_does_not_hold_the_event_loop(
    slow_model: M3Encoder, gate: Gate, call: Callable[[M3Encoder], Awaitable[object]]
):
    task = asyncio.ensure_future(call(slow_model))
    await gate.is_reached()
    assert not task.done()
    gate.opened.set()
    await task


async def test_a_cancelled_search_ends_at_once_and_the_next_one_works(slow: M3VectorStore, gate: Gate):
    retriever = M3Retriever(slow.retriever)
    task = asyncio.ensure_future(retriever.aretrieve(QUERY))
    await gate.is_reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    assert await retriever.aretrieve(QUERY) == retriever.retrieve(QUERY)


async def test_a_search_that_waits_for_a_cancelled_ones_encoding_gets_it(
    slow_model: M3Encoder, gate: Gate, passes: Passes
):
    embedding = M3Embedding(encoder=slow_model)
    tasks = [asyncio.ensure_future(embedding.aget_query_embedding(QUERY)) for _ in range(2)]
    await gate.is_reached()
    tasks[0].cancel()
    gate.opened.set()
    assert await tasks[1] == embedding.get_query_embedding(QUERY)
    assert passes.total() == 1


async def test_fifty_searches_at_once_are_one_pass_a_query(filled: M3VectorStore, passes: Passes):
    retriever = M3Retriever(filled.retriever, k=3)
    queries = SENTENCES[:5] * 10
    found = await asyncio.gather(*(retriever.aretrieve(query) for query in queries))
    assert set(passes.values()) == {1} and len(passes) == 5
    alone = {query: retriever.retrieve(query) for query in SENTENCES[:5]}
    assert [[node.node_id for node in nodes] for nodes in found] == [
        [node.node_id for node in alone[query]] for query in queries
    ]


async def test_fifty_answers_at_once_with_every_component_are_one_pass_a_text(
    filled: M3VectorStore, nodes: list[TextNode], passes: Passes
):
    """The retriever, the store, the embedding and the reranker, which reads the nodes: documents, once each."""
    encoder = filled.client.encoder
    retriever, rerank = M3Retriever(filled.retriever, k=12), M3Rerank(encoder=encoder)
    query = VectorStoreQuery(query_str=QUERY)

    async def answer() -> list[NodeWithScore]:
        await asyncio.gather(filled.aquery(query), M3Embedding(encoder=encoder).aget_query_embedding(QUERY))
        return await rerank.apostprocess_nodes(await retriever.aretrieve(QUERY), query_str=QUERY)

    answers = await asyncio.gather(*(answer() for _ in range(50)))
    assert all(each == answers[0] for each in answers)
    assert set(passes.values()) == {1} and len(passes) == 1 + len(nodes)


async def test_adding_and_searching_at_once_is_safe(store: M3VectorStore):
    retriever = M3Retriever(store.retriever, k=50)
    batches = [[TextNode(id_=f"{i}-{j}", text=f"{SENTENCES[j]} {i}") for j in range(5)] for i in range(10)]
    await asyncio.gather(*(store.async_add(batch) for batch in batches), *(retriever.aretrieve(QUERY) for _ in batches))
    assert len(await retriever.aretrieve(QUERY)) == 50
