"""Parameters with which the stock stores of LangChain keep M3's vectors whole, where their defaults cut or quantise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_m3plugins.embeddings import M3Embeddings
from m3plugins import HybridWeights

FLAT: Mapping[str, Any] = {"index_type": "FLAT"}


def milvus_params(
    *,
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    dense_index: Mapping[str, Any] = FLAT,
    dense_search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns keyword arguments of `langchain_milvus.Milvus` for both embeddings of M3.

    By default `Milvus` compares dense vectors by L2, drops a fifth of the sparse weights, and hands Milvus Lite
    search parameters that it refuses. Here both heads are compared by the inner product, M3's own score, and all
    weights are kept; the dense index is exact.

    Args:
        dense_field: The dense vector.
        sparse_field: The sparse vector.
        dense_index: `index_type` and `params`; for many rows on a server for instance
            `{"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}`.
        dense_search: Parameters of the search in that index, such as `{"ef": 200}` for HNSW.

    Example:
        ```python
        Milvus(
            embedding_function=[M3Embeddings(model="BAAI/bge-m3"), M3SparseEmbeddings(model="BAAI/bge-m3")],
            connection_args={"uri": "./milvus.db"},
            **milvus_params(),
        )
        ```
    """
    return {
        "vector_field": [dense_field, sparse_field],
        "index_params": [
            {"metric_type": "IP", "params": {}, **dense_index},
            {"metric_type": "IP", "params": {}, "index_type": "SPARSE_INVERTED_INDEX"},
        ],
        "search_params": [
            {"metric_type": "IP", "params": dict(dense_search or {})},
            {"metric_type": "IP", "params": {}},
        ],
    }


def elasticsearch_params(*, index_type: Literal["flat", "hnsw"] = "flat", asynchronous: bool = False) -> dict[str, Any]:
    """Returns keyword arguments of `langchain_elasticsearch.ElasticsearchStore` for `M3Embeddings`.

    By default Elasticsearch quantises the vectors of this store to bytes or bits. Here it keeps float32 and
    compares by the dot product, M3's own score; a hit's score is (1 + dot product) / 2. For the sparse head too see
    `elasticsearch_hybrid_params`.

    Args:
        index_type: "flat" is exact; "hnsw" is approximate, for many documents.
        asynchronous: Whether the parameters are for `AsyncElasticsearchStore`.

    Raises:
        ImportError: If the Elasticsearch client is not installed.
        ValueError: If `index_type` is another one.

    Example:
        ```python
        ElasticsearchStore("docs", embedding=M3Embeddings(), es_url="http://…", **elasticsearch_params())
        ```
    """
    from langchain_m3plugins.elasticsearch import AsyncFullPrecisionStrategy, FullPrecisionStrategy

    return {"strategy": (AsyncFullPrecisionStrategy if asynchronous else FullPrecisionStrategy)(index_type)}


def elasticsearch_hybrid_params(
    embeddings: M3Embeddings,
    *,
    weights: HybridWeights | None = None,
    dense_index: str | Mapping[str, Any] = "int8_hnsw",
    window: int = 1_000,
    asynchronous: bool = False,
) -> dict[str, Any]:
    """Returns arguments of `langchain_elasticsearch.ElasticsearchStore` for the dense and the sparse head of M3.

    Every document is stored with both vectors, and a search goes by both in one request, on the Basic licence. A hit's
    score is M3's weighted score and the dense weight: `dense * (1 + cosine) + sparse * dot product`. How far that is
    exact, and what the options mean, is said of `m3plugins_elasticsearch.strategy.M3RetrievalStrategy`. A search by
    vector goes by the dense head; MMR, which reads one vector a document, does not work: `M3VectorStore` has it, and
    the multi-vector head.

    The index must be a new one: a store with dense vectors has another mapping.

    Args:
        embeddings: The model.
        weights: Weight of each head; that of the multi-vector head is not used.
        dense_index: A type of dense index, or `index_options` of one; "flat" is exact for few documents.
        window: Documents a shard that are scored by both heads at least.
        asynchronous: Whether the parameters are for `AsyncElasticsearchStore`.

    Raises:
        ImportError: If m3plugins-elasticsearch is not installed.
        ValueError: If an option is not possible.

    Example:
        ```python
        ElasticsearchStore("docs", es_url="http://…", **elasticsearch_hybrid_params(M3Embeddings()))
        ```
    """
    from langchain_m3plugins.hybrid_embeddings import M3HybridEmbeddings
    from m3plugins_elasticsearch.strategy import AsyncM3RetrievalStrategy, M3RetrievalStrategy

    strategy = AsyncM3RetrievalStrategy if asynchronous else M3RetrievalStrategy
    return {
        "embedding": M3HybridEmbeddings(encoder=embeddings.encoder),
        "strategy": strategy(embeddings.encoder, weights=weights, dense_index=dense_index, window=window),
    }
