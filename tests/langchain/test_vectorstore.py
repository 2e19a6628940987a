"""`M3VectorStore`, beyond LangChain's own suite."""

from __future__ import annotations

import math
from uuid import UUID

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_m3plugins import M3Embeddings, M3VectorStore
from m3plugins import (
    HybridIndex,
    HybridRetriever,
    HybridWeights,
    InMemoryHybridIndex,
    M3Encoder,
    ModelMismatchError,
    reranking,
)
from m3plugins.indexing import UpsertError
from m3plugins.retrieval import filters
from tests.langchain.conftest import DOCUMENTS, ByLength
from tests.tiny import SENTENCES, save_checkpoint

QUERY = "a quick fox"
ONE_HEAD = {
    "dense": HybridWeights(dense=1, sparse=0, multi_vector=0),
    "sparse": HybridWeights(dense=0, sparse=1, multi_vector=0),
    "multi_vector": HybridWeights(dense=0, sparse=0, multi_vector=1),
}


@pytest.fixture
def store(hybrid: HybridRetriever) -> M3VectorStore:
    """`DOCUMENTS`, to be read only."""
    return M3VectorStore(hybrid)


@pytest.fixture
def new(empty: HybridIndex) -> M3VectorStore:
    return M3VectorStore(HybridRetriever(empty))


# Writing


def test_ids_are_made_where_there_is_none(new: M3VectorStore):
    ids = new.add_documents([Document(page_content="a fox"), Document(page_content="a dog", id="dog")])
    assert UUID(ids[0]).version == 4
    assert ids[1] == "dog"
    assert [document.page_content for document in new.get_by_ids(ids[::-1])] == ["a dog", "a fox"]


def test_any_iterable_is_added(new: M3VectorStore):
    assert new.add_texts(iter(["a fox", "a dog"]), ids=["1", "2"]) == ["1", "2"]
    assert new.add_documents(Document(page_content=text, id=text) for text in ("x", "y")) == ["x", "y"]
    assert new.add_texts([]) == []
    assert new.index.count() == 4


def test_what_cannot_be_stored_is_named_and_the_rest_is_stored(new: M3VectorStore):
    metadatas = [{"good": 1}, {"bad": object()}, {"good": 2}]
    with pytest.raises(UpsertError, match=r"1 documents were not stored, 2 were: 'b': metadata\.bad must be JSON"):
        new.add_texts(["a fox", "a dog", "a cat"], metadatas, ids=["a", "b", "c"])
    assert [document.id for document in new.get_by_ids(["a", "b", "c"])] == ["a", "c"]


@pytest.mark.parametrize("short", [{"metadatas": [{}]}, {"ids": ["1"]}])
def test_lists_of_different_lengths_store_nothing(new: M3VectorStore, short: dict):
    with pytest.raises(ValueError, match="got 1 (metadatas|ids) and 2 texts"):
        new.add_texts(["a fox", "a dog"], **short)
    assert new.index.count() == 0


async def test_the_async_methods_write_alike(new: M3VectorStore):
    assert await new.aadd_texts(["a fox"], [{"n": 1}], ids=["1"]) == ["1"]
    assert await new.aadd_documents([Document(page_content="a dog", id="2")]) == ["2"]
    assert (await new.aget_by_ids(["1"]))[0].metadata == {"n": 1}
    assert await new.adelete(filter=filters.eq("n", 1)) is True
    assert await new.aget_by_ids(["1", "2"]) == new.get_by_ids(["2"])


def test_documents_are_deleted_by_filter(new: M3VectorStore):
    new.add_texts(["a fox", "a dog"], [{"n": 1}, {"n": 2}], ids=["1", "2"])
    new.delete(filter=filters.gt("n", 1))
    assert [document.id for document in new.index.scan()] == ["1"]


def test_nothing_deletes_all(new: M3VectorStore):
    new.add_texts(["a fox"])
    with pytest.raises(ValueError, match="exactly one of ids, filter"):
        new.delete()
    new.delete([])
    assert new.index.count() == 1


def test_unknown_keywords_are_refused(store: M3VectorStore):
    calls = [
        lambda: store.add_texts(["a"], partition="p"),
        lambda: store.delete(["a"], partition="p"),
        lambda: store.similarity_search("a", partition="p"),
        lambda: store.similarity_search_by_vector([0.0], partition="p"),
        lambda: store.as_retriever(search_kwargs={"partition": "p"}).invoke("a"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="partition"):
            call()
    with pytest.raises(ValidationError, match="partition"):
        store.as_retriever(partition="p")


# Making


def test_from_texts_makes_an_index_of_the_embeddings_model(encoder: M3Encoder):
    store = M3VectorStore.from_texts(["a fox"], M3Embeddings(encoder=encoder), [{"n": 1}], ids=["1"])
    assert isinstance(store.index, InMemoryHybridIndex)
    assert store.get_by_ids(["1"]) == [Document(page_content="a fox", metadata={"n": 1}, id="1")]
    assert store.embeddings.encoder is encoder


async def test_from_documents_takes_an_index_or_a_retriever(empty: HybridIndex, encoder: M3Encoder):
    documents = [Document(page_content="a fox", id="1")]
    store = M3VectorStore.from_documents(documents, M3Embeddings(encoder=encoder), index=empty)
    assert store.index is empty
    retriever = HybridRetriever(empty, fusion="rrf")
    assert (await M3VectorStore.afrom_documents(documents, None, retriever=retriever)).retriever is retriever
    with pytest.raises(ValueError, match="got both"):
        M3VectorStore.from_texts([], None, index=empty, retriever=retriever)


def test_other_embeddings_are_refused(empty: HybridIndex, tmp_path):
    with pytest.raises(TypeError, match="must be M3Embeddings"):
        M3VectorStore.from_texts([], DeterministicFakeEmbedding(size=4), index=empty)
    with pytest.raises(ValueError, match="got none"):
        M3VectorStore.from_texts([], None)
    other = M3Embeddings(model=save_checkpoint(tmp_path, hidden_size=16))
    with pytest.raises(ModelMismatchError, match="leave it out"):
        M3VectorStore.from_texts([], other, index=empty)


# Searching


@pytest.mark.parametrize("search_type", ["hybrid", "similarity"])
def test_scores_are_the_cores(store: M3VectorStore, search_type: str):
    hits = store.retriever.search(QUERY, k=5)
    found = store.similarity_search_with_score(QUERY, k=5)
    assert [document.id for document, _ in found] == [hit.id for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], rel=1e-6, abs=1e-6)
    assert {type(score) for _, score in found} == {float}
    assert store.search(QUERY, search_type, k=5) == [document for document, _ in found]


@pytest.mark.parametrize("head", ONE_HEAD)
async def test_a_search_type_can_be_one_head(store: M3VectorStore, head: str):
    expected = [hit.id for hit in store.retriever.search(QUERY, k=5, weights=ONE_HEAD[head])]
    retriever = store.as_retriever(search_type=head, search_kwargs={"k": 5})
    assert [document.id for document in retriever.invoke(QUERY)] == expected
    assert [document.id for document in await retriever.ainvoke(QUERY)] == expected
    assert [document.id for document in await store.asearch(QUERY, head, k=5)] == expected


@pytest.mark.parametrize("head", ONE_HEAD)
def test_one_head_ranks_without_a_reranker(index: HybridIndex, head: str):
    reranked = M3VectorStore(HybridRetriever(index, reranker=ByLength()))
    plain = M3VectorStore(HybridRetriever(index))
    assert reranked.search(QUERY, head, k=5) == plain.search(QUERY, head, k=5)
    assert reranked.search(QUERY, head, k=5, rerank=ByLength()) != plain.search(QUERY, head, k=5)


def test_an_unknown_search_type_is_refused(store: M3VectorStore):
    with pytest.raises(ValidationError, match="lexical not allowed"):
        store.as_retriever(search_type="lexical")
    with pytest.raises(ValueError, match="lexical not allowed"):
        store.search(QUERY, "lexical")


def test_options_go_to_the_search(store: M3VectorStore):
    options = {"filter": filters.eq("lang", "en"), "weights": ONE_HEAD["dense"], "min_score": -1.0, "per_parent": 1}
    expected = [hit.id for hit in store.retriever.search(QUERY, k=3, **options)]
    assert [document.id for document in store.similarity_search(QUERY, k=3, **options)] == expected
    retriever = store.as_retriever(search_kwargs={"k": 9, **options})
    assert [document.id for document in retriever.invoke(QUERY, k=3)] == expected


def test_documents_come_back_as_they_were_added(store: M3VectorStore):
    found = store.similarity_search(QUERY, k=12)
    stored = {document.id: document for document in DOCUMENTS}
    for document in found:
        assert document.page_content == stored[document.id].text
        assert document.metadata == stored[document.id].metadata


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
async def test_a_vector_finds_by_its_exact_dense_score(index: HybridIndex, fusion: str):
    store = M3VectorStore(HybridRetriever(index, fusion=fusion, reranker=ByLength()))
    vector = store.embeddings.embed_query(QUERY)
    hits = HybridRetriever(index).search(QUERY, k=5, weights=ONE_HEAD["dense"])
    found = store.similarity_search_with_score_by_vector(vector, k=5)
    assert [document.id for document, _ in found] == [hit.id for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.scores.dense for hit in hits], rel=1e-6, abs=1e-6)
    assert store.similarity_search_by_vector(vector, k=5) == [document for document, _ in found]
    assert await store.asimilarity_search_by_vector(vector, k=5) == [document for document, _ in found]


def test_a_vector_of_another_width_is_refused(store: M3VectorStore):
    with pytest.raises(ValueError, match="32 dimensions"):
        store.similarity_search_by_vector([1.0, 0.0])


# Relevance


@pytest.mark.parametrize(
    ("options", "relevance"),
    [
        ({}, lambda score: score / 2.3),
        ({"weights": HybridWeights(dense=2, sparse=0, multi_vector=1)}, lambda score: score / 3),
        ({"fusion": "rrf"}, lambda score: score * 61 / 2.3),
        ({"reranker": ByLength()}, lambda score: 1 / (1 + math.exp(-score))),
    ],
)
async def test_relevance_is_the_score_mapped_to_0_and_1(index: HybridIndex, options: dict, relevance):
    store = M3VectorStore(HybridRetriever(index, **options))
    scored = store.similarity_search_with_score(QUERY, k=12)
    expected = [(document, min(max(relevance(score), 0), 1)) for document, score in scored]
    found = store.similarity_search_with_relevance_scores(QUERY, k=12)
    assert [document for document, _ in found] == [document for document, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert await store.asimilarity_search_with_relevance_scores(QUERY, k=12) == found
    assert store._select_relevance_score_fn()(scored[0][1]) == found[0][1]


def test_relevance_follows_the_options_of_the_search(index: HybridIndex):
    store = M3VectorStore(HybridRetriever(index, reranker=ByLength()))
    found = store.similarity_search_with_relevance_scores(QUERY, rerank=False, weights=ONE_HEAD["dense"])
    dense = [hit.scores.dense for hit in HybridRetriever(index).search(QUERY, k=4, weights=ONE_HEAD["dense"])]
    assert [score for _, score in found] == pytest.approx(dense)


def test_relevance_of_m3_as_a_reranker_is_that_of_its_weights(index: HybridIndex):
    store = M3VectorStore(HybridRetriever(index, reranker=reranking.M3Reranker(index.encoder)))
    found, score = store.similarity_search_with_score(QUERY, k=1)[0]
    assert store.similarity_search_with_relevance_scores(QUERY, k=1) == [(found, min(score / 2.3, 1))]


def test_a_cross_encoder_that_is_normalised_is_its_own_relevance(hybrid: HybridRetriever):
    retriever = HybridRetriever(hybrid.index, reranker=reranking.CrossEncoderReranker("owner/none", normalize=True))
    assert M3VectorStore(retriever)._select_relevance_score_fn()(0.25) == 0.25


def test_a_threshold_is_one_of_relevance(store: M3VectorStore):
    scored = store.similarity_search_with_relevance_scores(QUERY, k=12)
    threshold = scored[4][1]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 12, "score_threshold": threshold}
    )
    assert retriever.invoke(QUERY) == [document for document, score in scored if score >= threshold]


# Maximal marginal relevance


@pytest.mark.parametrize("lambda_mult", [0.0, 0.5, 1.0])
async def test_mmr_chooses_as_langchains_own_store_does(store: M3VectorStore, lambda_mult: float, encoder: M3Encoder):
    embeddings = M3Embeddings(encoder=encoder)
    stock = InMemoryVectorStore(embeddings)
    stock.add_documents([Document(page_content=document.content, id=document.id) for document in DOCUMENTS])
    options = {"k": 4, "fetch_k": len(DOCUMENTS), "lambda_mult": lambda_mult}
    expected = [document.id for document in stock.max_marginal_relevance_search(QUERY, **options)]
    vector = embeddings.embed_query(QUERY)
    for found in (
        store.max_marginal_relevance_search(QUERY, **options),
        await store.amax_marginal_relevance_search(QUERY, **options),
        store.max_marginal_relevance_search_by_vector(vector, **options),
        await store.amax_marginal_relevance_search_by_vector(vector, **options),
        store.as_retriever(search_type="mmr", search_kwargs=options).invoke(QUERY),
    ):
        assert [document.id for document in found] == expected


def test_mmr_passes_over_a_text_that_is_there_already(new: M3VectorStore):
    new.add_texts([SENTENCES[0], SENTENCES[0], SENTENCES[1]], ids=["a", "copy of a", "b"])
    found = new.max_marginal_relevance_search(SENTENCES[0], k=2, lambda_mult=0.1)
    assert [document.id for document in found] == ["a", "b"]


def test_mmr_fetches_as_many_as_it_returns(store: M3VectorStore):
    assert len(store.max_marginal_relevance_search(QUERY, k=5, fetch_k=1)) == 5


def test_mmr_chooses_from_the_hybrid_ranking(store: M3VectorStore):
    best = {document.id for document in store.similarity_search(QUERY, k=3, filter=filters.eq("lang", "other"))}
    found = store.max_marginal_relevance_search(QUERY, k=3, fetch_k=3, filter=filters.eq("lang", "other"))
    assert {document.id for document in found} == best


def test_tags_name_the_store_and_the_embeddings(store: M3VectorStore):
    assert store.as_retriever().tags == ["M3VectorStore", "M3Embeddings"]
    assert store.as_retriever(tags=["own"]).tags == ["own"]
    assert np.isclose(np.linalg.norm(store.embeddings.embed_query(QUERY)), 1)
