"""Both heads of M3 in LangChain's own Elasticsearch store, on a node."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("langchain_elasticsearch", reason="the stock store of today needs a newer langchain-core")
pytest.importorskip("m3plugins_elasticsearch")

from elasticsearch import AsyncElasticsearch, Elasticsearch
from langchain_core.documents import Document
from langchain_elasticsearch import AsyncElasticsearchStore, ElasticsearchStore

from langchain_m3plugins import M3Embeddings, elasticsearch_hybrid_params
from m3plugins import HybridWeights, M3Encoder
from m3plugins.scoring import head_scores
from tests.langchain.conftest import Passes
from tests.tiny import SENTENCES

pytestmark = pytest.mark.elasticsearch9

QUERY = "a quick fox jumps"
TEXTS = [*SENTENCES, ""]
IDS = [str(number) for number in range(len(TEXTS))]
DOCUMENTS = [Document(text, metadata={"number": n, "lang": ["en", "de"][n % 2]}) for n, text in enumerate(TEXTS)]
GERMAN = [{"term": {"metadata.lang.keyword": "de"}}]


def make(encoder: M3Encoder, url: str, name: str, **options: Any) -> ElasticsearchStore:
    params = elasticsearch_hybrid_params(M3Embeddings(encoder=encoder), **options)
    return ElasticsearchStore(name, client=Elasticsearch(url), **params)


@pytest.fixture
def store(encoder: M3Encoder, es_url: str, es_name: str) -> Iterator[ElasticsearchStore]:
    store = make(encoder, es_url, es_name)
    assert store.add_documents(DOCUMENTS, ids=IDS) == IDS
    yield store
    store.close()


@pytest.fixture
async def async_store(encoder: M3Encoder, es_url: str, es_name: str) -> AsyncIterator[AsyncElasticsearchStore]:
    params = elasticsearch_hybrid_params(M3Embeddings(encoder=encoder), asynchronous=True)
    store = AsyncElasticsearchStore(f"{es_name}-async", client=AsyncElasticsearch(es_url), **params)
    assert await store.aadd_documents(DOCUMENTS, ids=IDS) == IDS
    yield store
    await store.client.close()


def scores(encoder: M3Encoder, query: str, weights: HybridWeights) -> dict[str, float]:
    """M3's weighted score of every text, and the dense weight."""
    exact = head_scores(encoder.encode_queries([query]), encoder.encode_documents(TEXTS))
    summed = [weights.dense * (1 + score.dense) + weights.sparse * score.sparse for score in exact]
    return dict(sorted(zip(TEXTS, summed, strict=True), key=lambda pair: -pair[1]))


@pytest.mark.parametrize("query", [QUERY, SENTENCES[4], "狐狸", "zzz"])
def test_scores_are_m3s_own(store: ElasticsearchStore, encoder: M3Encoder, query: str):
    found = store.similarity_search_with_score(query, k=len(TEXTS))
    expected = scores(encoder, query, HybridWeights())
    assert {document.page_content: score for document, score in found} == pytest.approx(expected, rel=1e-3)
    assert [document.page_content for document, _ in found] == list(expected)
    assert store.similarity_search(query, k=3) == [document for document, _ in found[:3]]
    assert store.as_retriever(search_kwargs={"k": 3}).invoke(query) == [document for document, _ in found[:3]]


def test_weights_and_the_index_can_be_chosen(encoder: M3Encoder, es_url: str, es_name: str):
    weights = HybridWeights(dense=0.15, sparse=0.5)
    store = make(encoder, es_url, es_name, weights=weights, dense_index="flat", window=10_000)
    store.add_documents(DOCUMENTS, ids=IDS)
    found = store.similarity_search_with_score(QUERY, k=len(TEXTS))
    expected = scores(encoder, QUERY, weights)
    assert {document.page_content: score for document, score in found} == pytest.approx(expected, rel=2e-3)
    mapping = store.client.indices.get_mapping(index=es_name)[es_name]["mappings"]["properties"]["vector"]
    assert mapping["properties"]["dense"]["index_options"]["type"] == "flat"
    store.close()


def test_filters_are_honoured(store: ElasticsearchStore):
    everything = store.similarity_search_with_score(QUERY, k=len(TEXTS))
    german = [(document, score) for document, score in everything if document.metadata["lang"] == "de"]
    found = store.similarity_search_with_score(QUERY, k=len(TEXTS), filter=GERMAN)
    assert [document for document, _ in found] == [document for document, _ in german]
    assert [score for _, score in found] == pytest.approx([score for _, score in german], rel=1e-6)  # float32


def test_what_is_deleted_is_not_found(store: ElasticsearchStore):
    assert store.delete(["3"])
    found = store.similarity_search(SENTENCES[3], k=len(TEXTS))
    assert len(found) == len(TEXTS) - 1
    assert SENTENCES[3] not in [document.page_content for document in found]


def test_an_id_that_is_known_is_replaced(store: ElasticsearchStore):
    store.add_texts(["Nothing about animals."], ids=["3"])
    found = [document.page_content for document in store.similarity_search(QUERY, k=100)]
    assert len(found) == len(TEXTS)
    assert "Nothing about animals." in found and SENTENCES[3] not in found


def test_a_search_by_vector_goes_by_the_dense_head(store: ElasticsearchStore, encoder: M3Encoder):
    vector = store.embeddings.embed_query(QUERY)
    found = store.similarity_search_by_vector_with_relevance_scores(vector, k=len(TEXTS))
    expected = scores(encoder, QUERY, HybridWeights(sparse=0))
    assert {document.page_content: score for document, score in found} == pytest.approx(expected, abs=1e-5)


async def test_async_answers_are_the_same(store: ElasticsearchStore, async_store: AsyncElasticsearchStore):
    for filter in (None, GERMAN):
        found = await async_store.asimilarity_search_with_score(QUERY, k=6, filter=filter)
        assert found == store.similarity_search_with_score(QUERY, k=6, filter=filter)
    several = await asyncio.gather(*(async_store.asimilarity_search(text, k=1) for text in SENTENCES))
    assert several == [store.similarity_search(text, k=1) for text in SENTENCES]
    await async_store.adelete(["0"])
    assert SENTENCES[0] not in [document.page_content for document in await async_store.asimilarity_search("fox", k=99)]


def test_a_text_goes_through_the_model_once(encoder: M3Encoder, es_url: str, es_name: str, passes: Passes):
    store = make(encoder, es_url, es_name)
    store.add_documents(DOCUMENTS, ids=IDS)
    embedded_by_the_store_itself = 1  # to see how wide the vectors are
    assert len(passes.texts) == len(TEXTS) + embedded_by_the_store_itself
    store.similarity_search(QUERY)
    assert len(passes.texts) == len(TEXTS) + embedded_by_the_store_itself + 1
    store.close()


def test_without_our_package_it_says_what_to_install(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "m3plugins_elasticsearch.strategy", None)
    monkeypatch.delitem(sys.modules, "langchain_m3plugins.hybrid_embeddings", raising=False)
    with pytest.raises(ImportError, match="pip install m3plugins-elasticsearch"):
        elasticsearch_hybrid_params(M3Embeddings(encoder=encoder))
