"""`M3RetrievalStrategy` in the official client's `VectorStore`: what is found, and in which order."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from elasticsearch import AsyncElasticsearch, Elasticsearch
from elasticsearch.helpers.vectorstore import AsyncVectorStore, VectorStore

from m3plugins import HybridWeights, M3Encoder, SparseEmbeddings
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.scoring import dense_scores, sparse_scores
from m3plugins_elasticsearch import check_versions
from m3plugins_elasticsearch.strategy import (
    AsyncM3EmbeddingService,
    AsyncM3RetrievalStrategy,
    M3EmbeddingService,
    M3RetrievalStrategy,
)
from tests.tiny import SENTENCES, random_documents

pytestmark = pytest.mark.elasticsearch9

TEXTS = list(dict.fromkeys(["", *SENTENCES, *(document.text for document in random_documents(60))]))
IDS = [f"t{number}" for number in range(len(TEXTS))]
METADATA = [{"number": number, "lang": ["en", "de"][number % 2]} for number in range(len(TEXTS))]
QUERIES = ["a quick fox jumps", "ein Hund am Ufer", "狐狸", SENTENCES[6], "?", "zzz"]
GERMAN = [{"term": {"metadata.lang.keyword": "de"}}]
DENSE_ONLY = HybridWeights(dense=1, sparse=0, multi_vector=0)
LEXICAL = HybridWeights(dense=0.15, sparse=5, multi_vector=0)
SHARE = 0.25


class Stored:
    """What is in an index, for scoring by brute force."""

    def __init__(self, client: Elasticsearch, name: str, encoder: M3Encoder) -> None:
        hits = client.search(index=name, size=1000, source=["vector_field"])["hits"]["hits"]
        self.ids = np.array([hit["_id"] for hit in hits])
        vectors = [hit["_source"]["vector_field"] for hit in hits]
        self.dense = np.array([vector["dense"] for vector in vectors], np.float32)
        self.sparse = SparseEmbeddings.from_dicts(
            [vector.get("sparse", {}) for vector in vectors], vocab_size=encoder.vocab_size
        )
        self.encoder = encoder

    def heads(self, query: str) -> tuple[np.ndarray, np.ndarray, float]:
        """The dense and the sparse scores, and the query's sparse score with itself."""
        embedded = self.encoder.encode_queries([query])
        own = sparse_scores(embedded.sparse, embedded.sparse)[0, 0]
        return dense_scores(embedded.dense, self.dense)[0], sparse_scores(embedded.sparse, self.sparse)[0], own

    def scores(self, query: str, weights: HybridWeights) -> dict[str, float]:
        """The score of every document."""
        dense, sparse, _ = self.heads(query)
        return dict(zip(self.ids, weights.dense * (1 + dense) + weights.sparse * sparse, strict=True))


@pytest.fixture(scope="module")
def client(es_url: str) -> Iterator[Elasticsearch]:
    with Elasticsearch(es_url) as client:
        yield client


def make(client: Elasticsearch, name: str, encoder: M3Encoder, **options: object) -> VectorStore:
    return VectorStore(
        client,
        index=name,
        retrieval_strategy=M3RetrievalStrategy(encoder, **options),
        embedding_service=M3EmbeddingService(encoder),
    )


def fill(store: VectorStore) -> None:
    assert store.add_texts(TEXTS, metadatas=METADATA, ids=IDS) == IDS


def found(hits: list[dict]) -> dict[str, float]:
    return {hit["_id"]: hit["_score"] for hit in hits}


def best_first(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=scores.__getitem__, reverse=True)


@pytest.mark.parametrize(
    ("dense_index", "shards"), [("flat", 1), ("hnsw", 1), ("int8_hnsw", 3), ({"type": "int4_flat"}, 1)]
)
def test_scores_and_order_are_those_of_the_stored_vectors(client, es_name, encoder, dense_index, shards):
    store = make(client, es_name, encoder, dense_index=dense_index)
    store.custom_index_settings = {"number_of_shards": shards}
    fill(store)
    stored = Stored(client, es_name, encoder)
    for weights in (HybridWeights(), LEXICAL, DENSE_ONLY):
        store.retrieval_strategy.weights = weights
        for query in QUERIES:
            expected = stored.scores(query, weights)
            hits = found(store.search(query=query, k=len(TEXTS)))
            assert hits == pytest.approx(expected, abs=2e-6)
            assert list(hits) == best_first(expected)
        assert list(found(store.search(query=query, k=5))) == best_first(expected)[:5]


def test_stored_token_weights_are_rounded_not_cut(client, es_name, encoder):
    """To what Elasticsearch's index can hold, so that what is stored is what is scored."""
    fill(make(client, es_name, encoder))
    exact = sparse_scores(encoder.encode_queries(QUERIES).sparse, encoder.encode_documents(TEXTS).sparse)
    stored = Stored(client, es_name, encoder)
    order = np.argsort([IDS.index(id) for id in stored.ids])
    kept = sparse_scores(encoder.encode_queries(QUERIES).sparse, stored.sparse)[:, order]
    assert kept == pytest.approx(exact, rel=2e-3)
    assert (kept > exact).any() and (kept < exact).any()


@pytest.mark.parametrize("filter", [[], GERMAN], ids=["all", "filtered"])
@pytest.mark.parametrize("window", [1, 5, 20])
def test_beyond_the_window_a_document_has_its_sparse_part_only(client, es_name, encoder, window, filter):
    """Before Elasticsearch 9; since then every document is in the window of a flat index."""
    store = make(client, es_name, encoder, window=window, dense_index="flat")
    fill(store)
    stored = Stored(client, es_name, encoder)
    if check_versions(client).version >= (9,):
        window = len(TEXTS)
    passing = np.array([METADATA[IDS.index(id)]["lang"] == "de" or not filter for id in stored.ids])
    for weights in (HybridWeights(), LEXICAL):
        store.retrieval_strategy.weights = weights
        for query in QUERIES:
            dense, sparse, own = stored.heads(query)
            among, sharing = np.flatnonzero(passing), np.flatnonzero(passing & (sparse >= SHARE * own) & (own > 0))
            nearest = [ids[np.argsort(-dense[ids])[:window]] for ids in (among, sharing)]
            scores = weights.sparse * sparse * passing
            inside = np.unique(np.concatenate(nearest))
            scores[inside] += weights.dense * (1 + dense[inside])
            expected = {id: score for id, score in zip(stored.ids, scores, strict=True) if score > 0}
            body = store.retrieval_strategy.es_query(
                query=query,
                query_vector=None,
                text_field="text_field",
                vector_field="vector_field",
                k=1,
                num_candidates=1,
                filter=filter,
            )
            hits = client.search(index=es_name, size=len(TEXTS), **body)["hits"]["hits"]
            assert found(hits) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dense_index", ["flat", "hnsw", "int8_flat", "int8_hnsw", "int4_flat", "int4_hnsw"])
def test_every_index_but_flat_keeps_to_the_window_on_every_server(client, es_name, encoder, dense_index):
    store = make(client, es_name, encoder, window=5, weights=DENSE_ONLY, dense_index=dense_index)
    fill(store)
    body = {"query_vector": store.embedding_service.embed_query("fox"), "vector_field": "vector_field", "k": 1}
    query = store.retrieval_strategy.es_query(query=None, text_field="text_field", num_candidates=1, **body)
    everything = dense_index == "flat" and check_versions(client).version >= (9,)
    assert len(client.search(index=es_name, size=1000, **query)["hits"]["hits"]) == (len(TEXTS) if everything else 5)


def test_more_candidates_widen_the_window(client, es_name, encoder):
    store = make(client, es_name, encoder, window=1, weights=DENSE_ONLY)
    fill(store)
    assert len(store.search(query=QUERIES[0], k=3, num_candidates=1)) == 3
    expected = Stored(client, es_name, encoder).scores(QUERIES[0], HybridWeights())
    store.retrieval_strategy.weights = HybridWeights()
    hits = store.search(query=QUERIES[0], k=10, num_candidates=len(TEXTS))
    assert found(hits) == pytest.approx({id: expected[id] for id in best_first(expected)[:10]}, abs=2e-6)


def test_a_filter_changes_what_is_found_and_no_score(client, es_name, encoder):
    store = make(client, es_name, encoder)
    fill(store)
    german = {id for id, metadata in zip(IDS, METADATA, strict=True) if metadata["lang"] == "de"}
    for query in QUERIES:
        everything = found(store.search(query=query, k=len(TEXTS)))
        hits = found(store.search(query=query, k=len(TEXTS), filter=GERMAN))
        assert hits == pytest.approx({id: score for id, score in everything.items() if id in german}, abs=1e-6)
        narrow = [*GERMAN, {"range": {"metadata.number": {"lt": 4}}}]
        assert found(store.search(query=query, filter=narrow)).keys() == {"t1", "t3"}


def test_a_query_without_tokens_goes_by_the_dense_head(client, es_name, encoder):
    store = make(client, es_name, encoder)
    fill(store)
    store.embedding_service = None  # the store itself refuses ""
    hits = found(store.search(query="", k=len(TEXTS)))
    assert hits == pytest.approx(Stored(client, es_name, encoder).scores("", DENSE_ONLY), abs=2e-6)
    assert best_first(hits)[0] == "t0", "the empty text is nearest to the empty query"


def test_without_the_dense_head_only_what_shares_a_token_is_found(client, es_name, encoder):
    store = make(client, es_name, encoder, weights=HybridWeights(dense=0, sparse=1, multi_vector=0))
    fill(store)
    stored = Stored(client, es_name, encoder)
    for query in QUERIES:
        _, sparse, _ = stored.heads(query)
        expected = {id: score for id, score in zip(stored.ids, sparse, strict=True) if score > 0}
        assert found(store.search(query=query, k=len(TEXTS))) == pytest.approx(expected, rel=1e-5)
    store.embedding_service = None
    assert store.search(query="") == []


def test_a_document_without_tokens_is_stored_and_found(client, es_name, encoder):
    store = make(client, es_name, encoder)
    store.add_texts(["", SENTENCES[0]], ids=["empty", "fox"])
    source = client.get(index=es_name, id="empty", source_includes="vector_field")["_source"]
    assert source["vector_field"]["dense"] and not source["vector_field"].get("sparse")
    assert found(store.search(query=SENTENCES[0])).keys() == {"fox", "empty"}


def test_a_search_by_vector_goes_by_the_dense_head(client, es_name, encoder):
    store = make(client, es_name, encoder)
    fill(store)
    vector = store.embedding_service.embed_query(QUERIES[0])
    expected = Stored(client, es_name, encoder).scores(QUERIES[0], DENSE_ONLY)
    assert found(store.search(query_vector=vector, k=len(TEXTS))) == pytest.approx(expected, abs=2e-6)


def test_bm25_counts_where_it_has_a_weight(client, es_name, encoder):
    store = make(client, es_name, encoder)
    fill(store)
    expected = found(store.search(query="brown fox", k=len(TEXTS)))
    store.retrieval_strategy.weights = HybridWeights(bm25=0.02)
    bm25 = client.search(index=es_name, size=len(TEXTS), query={"match": {"text_field": "brown fox"}})["hits"]["hits"]
    assert bm25
    for id, score in found(bm25).items():
        expected[id] += 0.02 * score
    assert found(store.search(query="brown fox", k=len(TEXTS))) == pytest.approx(expected, abs=2e-6)


def test_nothing_is_left_to_the_servers_defaults(client, es_name, encoder):
    fill(make(client, es_name, encoder))
    mapping = client.indices.get_mapping(index=es_name)[es_name]["mappings"]["properties"]["vector_field"]
    assert mapping["dynamic"] == "strict"
    dense, sparse = mapping["properties"]["dense"], mapping["properties"]["sparse"]
    assert (dense["dims"], dense["similarity"], dense["index"]) == (encoder.dim, "dot_product", True)
    assert dense["index_options"]["type"] == "int8_hnsw"
    assert sparse["index_options"]["prune"] is False


def test_a_text_goes_through_the_model_once(client, es_name, encoder, monkeypatch):
    read: Counter[tuple[int, ...]] = Counter()
    encode = LoadedModel.encode

    def counted(self, window, *arguments):
        read.update(tuple(text.ids.tolist()) for text in window)
        return encode(self, window, *arguments)

    monkeypatch.setattr(LoadedModel, "encode", counted)
    encoder.memo.clear()
    store = make(client, es_name, encoder)
    store.num_dimensions = encoder.dim  # else the store embeds a text of its own to see
    store.add_texts(SENTENCES)
    store.search(query="a fox at the river")
    assert len(read) == len(SENTENCES) + 1
    assert set(read.values()) == {1}


async def test_async_gives_the_same(client, es_url, es_name, encoder):
    fill(make(client, es_name, encoder))
    other = f"{es_name}-async"
    async with AsyncElasticsearch(es_url) as connection:
        store = AsyncVectorStore(
            connection,
            index=other,
            retrieval_strategy=AsyncM3RetrievalStrategy(encoder),
            embedding_service=AsyncM3EmbeddingService(encoder),
        )
        await store.add_texts(TEXTS, metadatas=METADATA, ids=IDS)
        for query in QUERIES[:3]:
            for filter in ([], GERMAN):
                expected = make(client, es_name, encoder).search(query=query, k=20, filter=filter)
                hits = await store.search(query=query, k=20, filter=filter)
                assert list(found(hits).items()) == list(found(expected).items())


def test_all_who_name_a_model_share_its_encoder(checkpoint):
    strategy, service = M3RetrievalStrategy(str(checkpoint)), M3EmbeddingService(str(checkpoint))
    assert strategy.encoder is service.encoder
    assert AsyncM3RetrievalStrategy(str(checkpoint)).encoder is AsyncM3EmbeddingService(str(checkpoint)).encoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "1 to 10,000 documents, got 0"),
        ({"window": 10_001}, "1 to 10,000 documents, got 10,001"),
        ({"dense_index": "ivf"}, "among flat, hnsw, .*got 'ivf'"),
        ({"dense_index": {"m": 16}}, "among flat, hnsw, .*got {'m': 16}"),
        ({"weights": HybridWeights(dense=0, sparse=0)}, "the dense or the sparse head"),
    ],
)
def test_options_are_checked(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        M3RetrievalStrategy(encoder, **options)


@pytest.mark.parametrize("vector", [None, [1.0]])
def test_a_search_for_nothing_is_refused(encoder, vector):
    strategy = M3RetrievalStrategy(encoder, weights=HybridWeights(dense=0))
    with pytest.raises(ValueError, match="needs a query"):
        strategy.es_query(
            query=None, query_vector=vector, text_field="t", vector_field="v", k=1, num_candidates=1, filter=[]
        )


def test_importing_and_making_one_loads_no_model_and_no_framework():
    code = """
import sys
from m3plugins_elasticsearch.strategy import M3EmbeddingService, M3RetrievalStrategy

M3RetrievalStrategy("m3-mini"), M3EmbeddingService("m3-mini")
print([name for name in ("torch", "transformers", "langchain_core", "llama_index") if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
