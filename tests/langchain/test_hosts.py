"""M3 in the stock stores: one pass a text, and no score lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("langchain_milvus", reason="the stock stores of today need a newer langchain-core")
pytest.importorskip("langchain_elasticsearch")

from elasticsearch import AsyncElasticsearch, Elasticsearch
from langchain_elasticsearch import AsyncElasticsearchStore, ElasticsearchStore
from langchain_milvus import Milvus

from langchain_m3plugins import M3Embeddings, M3SparseEmbeddings, elasticsearch_params, milvus_params
from m3plugins import M3Encoder
from m3plugins.scoring import head_scores
from tests.langchain.conftest import Passes
from tests.tiny import SENTENCES

QUERY = "a quick fox jumps"
TEXTS = [*SENTENCES, ""]
IDS = [str(number) for number in range(len(TEXTS))]
FUSED = {"fetch_k": 100, "ranker_type": "weighted", "ranker_params": {"weights": [1.0, 0.3]}}

pytestmark = pytest.mark.filterwarnings("ignore:The 'ranker_type' and 'ranker_params' parameters:DeprecationWarning")


def make(encoder: M3Encoder, folder: Path, **params: object) -> Milvus:
    return Milvus(
        embedding_function=[M3Embeddings(encoder=encoder), M3SparseEmbeddings(encoder=encoder)],
        connection_args={"uri": str(folder / "stock.db")},
        **params,
    )


@pytest.fixture(scope="module")
def milvus(encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus]:
    """The stock store with `TEXTS`, to be read only."""
    store = make(encoder, tmp_path_factory.mktemp("stock"), **milvus_params())
    store.add_texts(TEXTS, ids=IDS)
    yield store
    store.client.close()


def test_two_embedders_of_a_stock_store_take_one_pass_a_text(encoder: M3Encoder, tmp_path: Path, passes: Passes):
    store = make(encoder, tmp_path, **milvus_params())
    store.add_texts(TEXTS, ids=IDS)
    assert len(passes.texts) == len(TEXTS)
    store.similarity_search(QUERY, **FUSED)
    assert len(passes.texts) == len(TEXTS) + 1
    store.client.close()


@pytest.mark.parametrize("place", [0, 1], ids=["dense", "sparse"])
def test_a_stock_store_keeps_every_score(milvus: Milvus, encoder: M3Encoder, place: int):
    head = ["dense", "sparse"][place]
    query, documents = encoder.encode_queries([QUERY]), encoder.encode_documents(TEXTS)
    exact = [getattr(scores, head) for scores in head_scores(query, documents)]
    expected = {key: score for key, score in zip(IDS, exact, strict=True) if head == "dense" or score > 0}
    (found,) = milvus.client.search(
        milvus.collection_name,
        data=[milvus.embeddings[place].embed_query(QUERY)],
        anns_field=head,
        search_params=milvus.search_params[place],
        limit=len(TEXTS),
    )
    assert {hit["pk"]: hit["distance"] for hit in found} == pytest.approx(expected, abs=1e-6)


async def test_a_stock_store_searches_with_both_heads(milvus: Milvus):
    found = milvus.similarity_search(SENTENCES[3], k=3, **FUSED)
    assert found[0].page_content == SENTENCES[3]
    assert await milvus.asimilarity_search(SENTENCES[3], k=3, **FUSED) == found
    assert len(milvus.similarity_search("", k=3, **FUSED)) == 3


def test_fields_and_the_dense_index_can_be_chosen(encoder: M3Encoder, tmp_path: Path):
    params = milvus_params(
        dense_field="d",
        sparse_field="s",
        dense_index={"index_type": "HNSW", "params": {"M": 8, "efConstruction": 64}},
        dense_search={"ef": 64},
    )
    store = make(encoder, tmp_path, **params)
    store.add_texts(SENTENCES, ids=IDS[:-1])
    assert store.client.describe_index(store.collection_name, "d")["index_type"] == "HNSW"
    assert store.similarity_search(SENTENCES[3], k=1, **FUSED)[0].page_content == SENTENCES[3]
    store.client.close()


@pytest.mark.parametrize(
    ("store", "client", "asynchronous"),
    [(ElasticsearchStore, Elasticsearch, False), (AsyncElasticsearchStore, AsyncElasticsearch, True)],
)
@pytest.mark.parametrize("index_type", ["flat", "hnsw"])
async def test_elasticsearch_keeps_whole_vectors(encoder: M3Encoder, store, client, asynchronous, index_type):
    connection = client("http://localhost:9")
    params = elasticsearch_params(index_type=index_type, asynchronous=asynchronous)
    made = store("docs", embedding=M3Embeddings(encoder=encoder), client=connection, **params)
    strategy = made._store.retrieval_strategy
    assert strategy is params["strategy"]
    mappings, settings = strategy.es_mappings_settings(text_field="text", vector_field="vector", num_dimensions=32)
    assert mappings["properties"]["vector"] == {
        "type": "dense_vector",
        "dims": 32,
        "index": True,
        "similarity": "dot_product",
        "index_options": {"type": index_type},
    }
    assert settings == {}
    closing = connection.close()
    if asynchronous:
        await closing


def test_an_index_that_quantises_is_refused():
    with pytest.raises(ValueError, match="flat or hnsw.*int8_hnsw"):
        elasticsearch_params(index_type="int8_hnsw")
