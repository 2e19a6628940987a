"""M3 in the stock stores of LangChain, without loss: what their own defaults would cut away or quantise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

FLAT: Mapping[str, Any] = {"index_type": "FLAT"}


def milvus_params(
    *,
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    dense_index: Mapping[str, Any] = FLAT,
    dense_search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of `langchain_milvus.Milvus` for both embeddings of M3.

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
    """Keyword arguments of `langchain_elasticsearch.ElasticsearchStore` for `M3Embeddings`.

    By default Elasticsearch quantises the vectors of this store to bytes or bits. Here it keeps float32 and
    compares by the dot product, M3's own score; a hit's score is (1 + dot product) / 2. The store has one vector
    a document: for M3's sparse and multi-vector heads use `M3VectorStore`.

    Args:
        index_type: "flat" is exact; "hnsw" is approximate, for many documents.
        asynchronous: For `AsyncElasticsearchStore`.

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
