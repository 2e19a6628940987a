"""`M3Retriever`: core's ranking, LangChain's ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import ValidationError

from langchain_m3plugins import M3Retriever, M3VectorStore, batching
from m3plugins import Document as CoreDocument
from m3plugins import Hit, HybridIndex, HybridRetriever, HybridWeights, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from tests.langchain.conftest import DOCUMENTS, ByLength, Passes

Run = Callable[..., list[list[Document]]]
QUERY = "a quick fox"
SPARSE_ONLY = HybridWeights(dense=0, sparse=1, multi_vector=0)


@pytest.fixture
def retriever(hybrid: HybridRetriever) -> M3Retriever:
    return M3Retriever(retriever=hybrid)


def invoke(retriever, queries, **keywords):
    return [retriever.invoke(query, **keywords) for query in queries]


def ainvoke(retriever, queries, **keywords):
    return [asyncio.run(retriever.ainvoke(query, **keywords)) for query in queries]


def batch(retriever, queries, **keywords):
    return retriever.batch(queries, **keywords)


def abatch(retriever, queries, **keywords):
    return asyncio.run(retriever.abatch(queries, **keywords))


every_way = pytest.mark.parametrize("run", [invoke, ainvoke, batch, abatch])


def assert_same(documents: list[Document], hits: list[Hit]) -> None:
    assert [document.id for document in documents] == [hit.id for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        found = dict(document.metadata["m3"])
        assert (found.pop("title", ""), found.pop("parent_id", None)) == (hit.document.title, hit.document.parent_id)
        counted = {head: score for head, score in vars(hit.scores).items() if score is not None}
        assert found == pytest.approx({"score": hit.score, **counted}, rel=1e-6, abs=1e-6)
        assert document.page_content == hit.text


@every_way
@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ({}, {"k": 4}),
        ({"k": 2}, {"k": 2}),
        ({"k": 99}, {"k": 99}),
        ({"filter": filters.eq("lang", "en")}, {"k": 4, "filter": filters.eq("lang", "en")}),
        ({"weights": SPARSE_ONLY}, {"k": 4, "weights": SPARSE_ONLY}),
        ({"score_threshold": 0.5, "k": 12}, {"k": 12, "min_score": 0.5}),
        ({"per_parent": 1, "k": 12}, {"k": 12, "per_parent": 1}),
    ],
)
def test_ids_and_scores_are_those_of_the_core(retriever: M3Retriever, run: Run, keywords: dict, options: dict):
    queries = [QUERY, "Der schnelle braune Fuchs"]
    expected = [retriever.retriever.search(query, **options) for query in queries]
    for documents, hits in zip(run(retriever, queries, **keywords), expected, strict=True):
        assert_same(documents, hits)


@every_way
def test_a_reranker_can_be_given_or_left_out(hybrid: HybridRetriever, run: Run):
    plain = [hit.id for hit in hybrid.search(QUERY, k=12)]
    reranked = HybridRetriever(hybrid.index, reranker=ByLength())
    longest = [hit.id for hit in reranked.search(QUERY, k=12)]
    retriever = M3Retriever(retriever=reranked, k=12)
    assert [[d.id for d in found] for found in run(retriever, [QUERY])] == [longest]
    assert [[d.id for d in found] for found in run(retriever, [QUERY], rerank=False)] == [plain]
    unranked = M3Retriever(retriever=hybrid, k=12)
    assert [[d.id for d in found] for found in run(unranked, [QUERY], rerank=ByLength())] == [longest]
    assert reranked.reranker is not None, "the retriever itself stays as it was"


@every_way
def test_fields_are_the_defaults_of_keywords_and_none_lifts_them(hybrid: HybridRetriever, run: Run):
    retriever = M3Retriever(
        retriever=hybrid, k=3, filter=filters.eq("lang", "en"), weights=SPARSE_ONLY, score_threshold=1e9
    )
    assert run(retriever, [QUERY]) == [[]]
    found = run(retriever, [QUERY], score_threshold=None, filter=None, weights=None)
    assert_same(found[0], hybrid.search(QUERY, k=3))


@every_way
def test_unknown_keywords_are_refused(retriever: M3Retriever, run: Run):
    with pytest.raises(TypeError, match="unknown keyword top_k; there are k, filter"):
        run(retriever, [QUERY], top_k=2)


def test_unknown_fields_are_refused(hybrid: HybridRetriever):
    with pytest.raises(ValidationError, match="top_k"):
        M3Retriever(retriever=hybrid, top_k=2)


def test_scores_are_plain_floats(retriever: M3Retriever):
    scores = retriever.invoke(QUERY)[0].metadata["m3"]
    assert {type(scores[name]) for name in ("score", "dense", "sparse", "multi_vector")} == {float}


def test_scores_can_be_left_out_or_put_elsewhere(hybrid: HybridRetriever):
    plain = M3Retriever(retriever=hybrid, scores_key=None).invoke(QUERY, k=1)[0]
    assert plain.metadata == dict(hybrid.search(QUERY, k=1)[0].metadata)
    elsewhere = M3Retriever(retriever=hybrid, scores_key="scores").invoke(QUERY, k=1)[0]
    assert set(elsewhere.metadata) == {*plain.metadata, "scores"}


def test_a_field_of_that_name_is_kept_beside_the_scores(hybrid: HybridRetriever):
    for document, hit in zip(
        M3Retriever(retriever=hybrid, scores_key="lang").invoke(QUERY), hybrid.search(QUERY, k=4), strict=True
    ):
        scores = document.metadata["lang"]
        assert (scores["score"], scores["own"]) == (pytest.approx(hit.score), hit.metadata["lang"])


def test_changing_what_was_found_does_not_change_the_index(retriever: M3Retriever):
    found = retriever.invoke(QUERY, k=1)[0]
    found.metadata["tags"].append("changed")
    found.metadata["lang"] = "changed"
    again = retriever.invoke(QUERY, k=1)[0].metadata
    assert (again["tags"], again["lang"]) == (["fox"], DOCUMENTS[int(again["number"])].metadata["lang"])


def test_an_index_of_passages_gives_the_best_of_each_parent(encoder: M3Encoder):
    index = InMemoryHybridIndex(encoder=encoder, passages=Passages(size=12))
    index.upsert([CoreDocument(id=name, text=f"The {name} jumps. " * 9) for name in ("fox", "dog")])
    found = M3Retriever(retriever=HybridRetriever(index), per_parent=1).invoke("fox")
    assert sorted(document.metadata["m3"]["parent_id"] for document in found) == ["dog", "fox"]


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.started: list[dict[str, Any]] = []
        self.ended: dict[UUID, list[Document]] = {}
        self.failed: dict[UUID, BaseException] = {}

    def on_retriever_start(self, serialized, query, *, run_id, tags=None, metadata=None, **kwargs):
        self.started.append({"query": query, "run_id": run_id, "tags": tags, "metadata": metadata, **kwargs})

    def on_retriever_end(self, documents, *, run_id, **kwargs):
        self.ended[run_id] = documents

    def on_retriever_error(self, error, *, run_id, **kwargs):
        self.failed[run_id] = error


@every_way
def test_each_query_is_a_run_with_its_tags_and_its_documents(hybrid: HybridRetriever, run: Run):
    recorder = Recorder()
    retriever = M3Retriever(retriever=hybrid, tags=["own"], metadata={"kind": "m3"})
    config = {"callbacks": [recorder], "tags": ["call"], "metadata": {"user": "u"}, "run_name": "find"}
    found = run(retriever, [QUERY, "a dog"], config=config, k=1)
    assert sorted(start["query"] for start in recorder.started) == sorted([QUERY, "a dog"])
    for start in recorder.started:
        assert set(start["tags"]) == {"own", "call"}
        assert start["name"] == "find"
        assert start["metadata"].items() >= {"kind": "m3", "user": "u"}.items()
        assert recorder.ended[start["run_id"]] in found


@every_way
def test_a_failed_search_is_a_failed_run(retriever: M3Retriever, run: Run):
    recorder = Recorder()
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        run(retriever, [QUERY], config={"callbacks": [recorder]}, k=0)
    assert [type(error) for error in recorder.failed.values()] == [ValueError]


def test_traces_name_the_engine_and_the_model(retriever: M3Retriever):
    recorder = Recorder()
    retriever.invoke(QUERY, config={"callbacks": [recorder]})
    assert (
        recorder.started[0]["metadata"].items()
        >= {
            "ls_retriever_name": "m3",
            "ls_vector_store_provider": type(retriever.retriever.index).__name__,
            "ls_embedding_provider": "m3plugins",
            "ls_embedding_model": retriever.retriever.index.encoder.model,
        }.items()
    )


@pytest.mark.parametrize("run", [batch, abatch])
@pytest.mark.parametrize("of", ["retriever", "store"])
def test_a_batch_is_encoded_in_one_go(hybrid: HybridRetriever, run: Run, of: str, passes: Passes):
    retriever = M3Retriever(retriever=hybrid) if of == "retriever" else M3VectorStore(hybrid).as_retriever()
    queries = [f"fox number {number}" for number in range(9)]
    found = run(retriever, queries)
    assert [len(call) for call in passes] == [9]
    assert [[d.id for d in documents] for documents in found] == [
        [hit.id for hit in hybrid.search(query, k=4)] for query in queries
    ]


@pytest.mark.parametrize("run", [batch, abatch])
def test_a_long_batch_is_encoded_in_parts_and_keeps_its_configs(
    retriever: M3Retriever, run: Run, passes: Passes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batching, "TOGETHER", 2)
    recorder = Recorder()
    queries = [f"fox number {number}" for number in range(5)]
    run(retriever, queries, config=[{"callbacks": [recorder], "tags": [query]} for query in queries])
    assert [len(call) for call in passes] == [2, 2, 1]
    assert all(start["tags"] == [start["query"]] for start in recorder.started)
    assert len(recorder.started) == 5


@pytest.mark.parametrize("run", [batch, abatch])
def test_a_bad_query_of_a_batch_fails_alone(retriever: M3Retriever, run: Run):
    good, bad = run(retriever, [QUERY, None], return_exceptions=True)
    assert len(good) == 4
    assert isinstance(bad, TypeError)


@pytest.mark.parametrize("run", [batch, abatch])
def test_a_batch_of_none_is_none(retriever: M3Retriever, run: Run):
    assert run(retriever, []) == []


def test_it_is_configurable_and_composes(retriever: M3Retriever):
    chain = retriever.configurable_fields(k=ConfigurableField(id="k")) | RunnableLambda(len)
    assert chain.batch([QUERY, "a dog"], config={"configurable": {"k": 2}}) == [2, 2]
    assert chain.invoke(QUERY) == 4


def test_one_query_is_one_pass_whoever_asks(hybrid: HybridRetriever, index: HybridIndex, passes: Passes):
    store = M3VectorStore(hybrid)
    M3Retriever(retriever=hybrid).invoke(QUERY)
    M3Retriever(retriever=hybrid, weights=SPARSE_ONLY).invoke(QUERY)
    store.similarity_search(QUERY)
    store.max_marginal_relevance_search(QUERY)
    store.embeddings.embed_query(QUERY)
    assert len(passes.texts) == 1
