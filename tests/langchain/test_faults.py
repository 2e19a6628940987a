"""What goes wrong: each fault has its error, and what can be answered is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.documents import Document

from langchain_m3plugins import M3Retriever, M3VectorStore
from m3plugins import HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.indexing import UpsertError
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.langchain.conftest import DOCUMENTS
from tests.tiny import SENTENCES

QUERY = "a quick fox"
SEARCHES = {
    "invoke": lambda store, query, **keywords: M3Retriever(retriever=store.retriever).invoke(query, **keywords),
    "store retriever": lambda store, query, **keywords: store.as_retriever().invoke(query, **keywords),
    "similarity_search": lambda store, query, **keywords: store.similarity_search(query, **keywords),
    "relevance": lambda store, query, **keywords: store.similarity_search_with_relevance_scores(query, **keywords),
    "mmr": lambda store, query, **keywords: store.max_marginal_relevance_search(query, **keywords),
}
VERBS = {
    "search": lambda store: store.similarity_search(QUERY),
    "retriever": lambda store: M3Retriever(retriever=store.retriever).invoke(QUERY),
    "batch": lambda store: M3Retriever(retriever=store.retriever).batch([QUERY]),
    "by_vector": lambda store: store.similarity_search_by_vector([0.5] * 32),
    "mmr": lambda store: store.max_marginal_relevance_search(QUERY),
    "add": lambda store: store.add_texts(["a cat"]),
    "delete": lambda store: store.delete(["s0"]),
    "get": lambda store: store.get_by_ids(["s0"]),
}

every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@pytest.fixture
def store(hybrid: HybridRetriever) -> M3VectorStore:
    return M3VectorStore(hybrid)


@pytest.fixture(params=["memory", "milvus"])
def closed(request: pytest.FixtureRequest, encoder: M3Encoder, tmp_path: Path) -> M3VectorStore:
    if request.param == "memory":
        index = InMemoryHybridIndex(encoder=encoder)
    else:
        index = MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db")
    index.close()
    return M3VectorStore(HybridRetriever(index))


def test_a_closed_index_says_so(closed: M3VectorStore):
    for verb in VERBS.values():
        with pytest.raises(ValueError, match="closed"):
            verb(closed)


async def test_a_closed_index_says_so_in_async_calls(closed: M3VectorStore):
    for call in (closed.asimilarity_search(QUERY), closed.aadd_texts(["a"]), closed.as_retriever().ainvoke(QUERY)):
        with pytest.raises(ValueError, match="closed"):
            await call


def test_an_engine_that_is_gone_is_one_kind_of_error(encoder: M3Encoder, tmp_path: Path):
    options = {"encoder": encoder, "uri": tmp_path / "m3.db"}
    with MilvusHybridIndex.create("docs", **options) as index, MilvusHybridIndex.open("docs", **options) as other:
        index.upsert(DOCUMENTS)
        other.drop()
        store = M3VectorStore(HybridRetriever(index))
        for verb in VERBS.values():
            with pytest.raises(MilvusIndexError):
                verb(store)


@every_search
@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_finds_something(store: M3VectorStore, search, query: str):
    assert len(search(store, query, k=3)) == 3


@every_search
@pytest.mark.parametrize("k", [0, -1, "2", 1.5, None, True])
def test_a_number_that_is_none_is_refused(store: M3VectorStore, search, k: object):
    with pytest.raises((ValueError, TypeError), match="k must be a positive integer"):
        search(store, QUERY, k=k)


@every_search
def test_more_than_there_are_is_all_there_are(store: M3VectorStore, search):
    assert len(search(store, QUERY, k=1000)) == len(DOCUMENTS)


@every_search
@pytest.mark.parametrize("filter", [{"lang": "en"}, ["lang", "en"], 3])
def test_a_filter_of_the_wrong_type_is_refused(store: M3VectorStore, search, filter: object):
    with pytest.raises(TypeError, match="filter"):
        search(store, QUERY, filter=filter)


@every_search
@pytest.mark.parametrize("query", [None, 3, ["a fox"]])
def test_a_query_that_is_no_string_is_refused(store: M3VectorStore, search, query: object):
    with pytest.raises(TypeError, match="string"):
        search(store, query)


@every_search
def test_a_query_that_is_no_text_is_refused(store: M3VectorStore, search):
    with pytest.raises(ValueError, match="surrogate"):
        search(store, "a \ud800 fox")


def test_a_document_without_text_is_kept_and_found(empty):
    store = M3VectorStore(HybridRetriever(empty))
    store.add_documents([Document(page_content="", id="nothing"), Document(page_content=SENTENCES[0], id="fox")])
    assert [document.id for document in store.similarity_search(SENTENCES[0], k=2)] == ["fox", "nothing"]
    assert store.get_by_ids(["nothing"]) == [Document(page_content="", id="nothing")]
    assert len(store.max_marginal_relevance_search("", k=2)) == 2


@pytest.mark.parametrize("value", [object(), {1: "a"}, float("nan"), {"a", "b"}, b"bytes", (1, 2)])
def test_metadata_that_are_not_json_are_named(empty, value: object):
    store = M3VectorStore(HybridRetriever(empty))
    with pytest.raises(UpsertError, match="'bad': metadata"):
        store.add_texts(["a fox"], [{"field": value}], ids=["bad"])
    assert store.add_texts(["a fox"], [{"field": "good"}], ids=["bad"]) == ["bad"]


@pytest.mark.parametrize("id", ["", 7])
def test_an_id_that_is_none_is_named(empty, id: object):
    with pytest.raises(UpsertError, match="id must"):
        M3VectorStore(HybridRetriever(empty)).add_texts(["a fox"], ids=[id])
