"""The event loop goes on while a search, a write or the model is at work; what is cancelled harms nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_m3plugins import M3Embeddings, M3Reranker, M3Retriever, M3SparseEmbeddings, M3VectorStore
from m3plugins import HybridIndex, HybridRetriever, M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from tests.langchain.conftest import Passes
from tests.tiny import SENTENCES

PATIENCE = 20.0
QUERY = "a quick fox"


class Gate:
    """Holds who calls a gated function until the event loop opens it: a blocked loop never does."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args, **kwargs):
            self.reached.set()
            assert self.opened.wait(PATIENCE), "the event loop was blocked"
            return function(*args, **kwargs)

        return gated

    async def passed_by(self, call: Awaitable[Any]) -> Any:
        """What a call returns that was held while the loop went on."""
        task = asyncio.ensure_future(call)
        await self.is_reached(task)
        self.opened.set()
        return await task

    async def is_reached(self, task: asyncio.Future) -> None:
        while not self.reached.is_set():
            assert not task.done(), "the call passed no gate"
            await asyncio.sleep(0.001)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated_model(gate: Gate, encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> M3Encoder:
    encoder.memo.clear()
    encode = gate.on(LoadedModel.encode)
    monkeypatch.setattr(LoadedModel, "encode", lambda *arguments: encode(*arguments))
    return encoder


MODEL_CALLS = {
    "aembed_query": lambda encoder: M3Embeddings(encoder=encoder).aembed_query(QUERY),
    "aembed_documents": lambda encoder: M3Embeddings(encoder=encoder).aembed_documents(SENTENCES),
    "sparse aembed_query": lambda encoder: M3SparseEmbeddings(encoder=encoder).aembed_query(QUERY),
    "sparse aembed_documents": lambda encoder: M3SparseEmbeddings(encoder=encoder).aembed_documents(SENTENCES),
    "acompress_documents": lambda encoder: M3Reranker(encoder=encoder).acompress_documents(
        [Document(page_content=text) for text in SENTENCES], QUERY
    ),
}


@pytest.mark.parametrize("call", MODEL_CALLS.values(), ids=MODEL_CALLS)
async def test_the_loop_goes_on_while_the_model_computes(gate: Gate, gated_model: M3Encoder, call):
    assert await gate.passed_by(call(gated_model))


INDEX_CALLS = {
    "ainvoke": ("candidates", lambda store: M3Retriever(retriever=store.retriever).ainvoke(QUERY)),
    "abatch": ("candidates", lambda store: M3Retriever(retriever=store.retriever).abatch([QUERY, "a dog"])),
    "store ainvoke": ("candidates", lambda store: store.as_retriever(search_type="dense").ainvoke(QUERY)),
    "asimilarity_search": ("candidates", lambda store: store.asimilarity_search(QUERY)),
    "with_score": ("candidates", lambda store: store.asimilarity_search_with_score(QUERY)),
    "with_relevance": ("candidates", lambda store: store.asimilarity_search_with_relevance_scores(QUERY)),
    "by_vector": ("candidates", lambda store: store.asimilarity_search_by_vector([0.5] * 32)),
    "mmr": ("embeddings", lambda store: store.amax_marginal_relevance_search(QUERY)),
    "mmr by_vector": ("embeddings", lambda store: store.amax_marginal_relevance_search_by_vector([0.5] * 32)),
    "aadd_texts": ("upsert", lambda store: store.aadd_texts(["a fox"], ids=["s0"])),
    "aadd_documents": ("upsert", lambda store: store.aadd_documents([Document(page_content="a fox", id="s0")])),
    "adelete": ("delete", lambda store: store.adelete(["s11"])),
    "aget_by_ids": ("get", lambda store: store.aget_by_ids(["s0"])),
}


@pytest.mark.parametrize(("verb", "call"), INDEX_CALLS.values(), ids=INDEX_CALLS)
async def test_the_loop_goes_on_while_the_index_works(
    gate: Gate, empty: HybridIndex, monkeypatch: pytest.MonkeyPatch, verb: str, call
):
    store = M3VectorStore(HybridRetriever(empty))
    store.add_texts(SENTENCES, ids=[f"s{number}" for number in range(len(SENTENCES))])
    monkeypatch.setattr(empty, verb, gate.on(getattr(empty, verb)))
    assert await gate.passed_by(call(store))


async def test_fifty_at_once_find_what_one_after_the_other_find(hybrid: HybridRetriever, passes: Passes):
    retriever = M3Retriever(retriever=hybrid)
    queries = [f"fox number {number % 10}" for number in range(50)]
    found = await asyncio.gather(*(retriever.ainvoke(query) for query in queries))
    assert len(passes.texts) == 10
    assert found == [retriever.invoke(query) for query in queries]


async def test_after_a_cancelled_call_the_next_ones_work(gate: Gate, gated_model: M3Encoder, hybrid: HybridRetriever):
    retriever = M3Retriever(retriever=hybrid)
    task = asyncio.ensure_future(retriever.ainvoke(QUERY))
    await gate.is_reached(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.opened.set()
    assert [d.id for d in await retriever.ainvoke(QUERY)] == [hit.id for hit in hybrid.search(QUERY, k=4)]


async def test_a_call_that_waits_for_a_cancelled_one_gets_its_answer(
    gate: Gate, gated_model: M3Encoder, hybrid: HybridRetriever
):
    retriever = M3Retriever(retriever=hybrid)
    cancelled = asyncio.ensure_future(retriever.ainvoke(QUERY))
    await gate.is_reached(cancelled)
    waiting = asyncio.ensure_future(retriever.ainvoke(QUERY))
    await asyncio.sleep(0)
    cancelled.cancel()
    gate.opened.set()
    assert len(await waiting) == 4
