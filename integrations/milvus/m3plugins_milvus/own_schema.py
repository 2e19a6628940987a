"""Schema, indexes, rows and requests that M3 needs in a collection of your own, used through `MilvusClient`.

Example:
    >>> schema = hybrid_schema(1024, id_field="pk")
    >>> [field.name for field in schema.fields]
    ['pk', 'text', 'dense', 'sparse']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymilvus import AnnSearchRequest, CollectionSchema, DataType, MilvusClient, WeightedRanker
from pymilvus.milvus_client.index import IndexParams

from m3plugins import HybridWeights, M3Encoder, M3Output
from m3plugins.fusion.weighted import check_weights
from m3plugins.scoring.heads import check_query
from m3plugins_milvus.rows import sparse_row, stored_sparse
from m3plugins_milvus.schema import FLAT, MAX_VARCHAR, SPARSE_INDEX


def hybrid_schema(
    encoder: M3Encoder | int,
    *,
    id_field: str = "id",
    text_field: str = "text",
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    max_id_length: int = 512,
    max_text_length: int = MAX_VARCHAR,
) -> CollectionSchema:
    """A schema for texts with their dense and sparse vectors, and any other fields (they are dynamic).

    Args:
        encoder: The encoder, or the width of its dense vectors.
        id_field: The primary key, a string.
        text_field: The text.
        dense_field: The dense vector, float32.
        sparse_field: The sparse vector.
        max_id_length: Bytes of the longest key.
        max_text_length: Bytes of the longest text.
    """
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field(id_field, DataType.VARCHAR, max_length=max_id_length, is_primary=True)
    schema.add_field(text_field, DataType.VARCHAR, max_length=max_text_length)
    schema.add_field(dense_field, DataType.FLOAT_VECTOR, dim=encoder if isinstance(encoder, int) else encoder.dim)
    schema.add_field(sparse_field, DataType.SPARSE_FLOAT_VECTOR)
    return schema


def hybrid_index_params(
    *,
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    dense_index: Mapping[str, Any] = FLAT,
    managed: bool = False,
) -> IndexParams:
    """The indexes of both vectors, by inner product, which loses nothing of either.

    Args:
        dense_field: The dense vector.
        sparse_field: The sparse vector.
        dense_index: `index_type` and `params`; exact by default, for many rows for instance
            `{"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}`.
        managed: AUTOINDEX for both, where Milvus chooses the type (Zilliz Cloud). Milvus Lite refuses it.

    Raises:
        ValueError: If a dense index is chosen where Milvus chooses.
    """
    if managed and dense_index != FLAT:
        msg = f"a managed Milvus chooses the index itself, got dense_index={dict(dense_index)}; leave it out"
        raise ValueError(msg)
    auto = {"index_type": "AUTOINDEX"}
    params = MilvusClient.prepare_index_params()
    params.add_index(dense_field, metric_type="IP", **(auto if managed else dense_index))
    params.add_index(sparse_field, metric_type="IP", **(auto if managed else {"index_type": SPARSE_INDEX}))
    return params


def hybrid_rows(
    embeddings: M3Output, *, dense_field: str = "dense", sparse_field: str = "sparse"
) -> list[dict[str, Any]]:
    """The vectors of each text by field name, to be joined with its id, text and other fields.

    A text without a token gets one dimension beyond the vocabulary, as Milvus takes no empty sparse vector.

    Args:
        embeddings: Of documents, with the dense or the sparse head, or both.
        dense_field: The dense vector.
        sparse_field: The sparse vector.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(len(embeddings))]
    if embeddings.dense is not None:
        for row, vector in zip(rows, embeddings.dense, strict=True):
            row[dense_field] = vector
    if embeddings.sparse is not None:
        for row, weights in zip(rows, embeddings.sparse, strict=True):
            row[sparse_field] = stored_sparse(weights, embeddings.sparse.vocab_size)
    return rows


def hybrid_search_requests(
    query: M3Output,
    *,
    k: int,
    dense_field: str = "dense",
    sparse_field: str = "sparse",
    filter: str | None = None,
    dense_params: Mapping[str, Any] | None = None,
) -> list[AnnSearchRequest]:
    """What `MilvusClient.hybrid_search` takes: one request for each head of the query.

    A query without a token has no sparse request. Ask each head for several times as many rows as you want
    in the end: what one head does not return counts 0 there.

    Args:
        query: The embeddings of one query.
        k: Rows of each request.
        dense_field: The dense vector.
        sparse_field: The sparse vector.
        filter: A Milvus expression.
        dense_params: Of the search in the dense index, such as `{"ef": 200}` for HNSW.

    Raises:
        ValueError: If `query` is not of length 1, or not finite.
    """
    check_query(query)
    asked: list[tuple[str, Any, Mapping[str, Any]]] = []
    if query.dense is not None:
        asked.append((dense_field, query.dense[0].tolist(), dense_params or {}))
    if query.sparse is not None and (weights := sparse_row(query.sparse[0], query.sparse.vocab_size)):
        asked.append((sparse_field, weights, {}))
    return [
        AnnSearchRequest([vector], field, {"metric_type": "IP", "params": dict(params)}, limit=k, expr=filter)
        for field, vector, params in asked
    ]


def hybrid_ranker(
    requests: Sequence[AnnSearchRequest],
    weights: HybridWeights | None = None,
    *,
    dense_field: str = "dense",
    sparse_field: str = "sparse",
) -> WeightedRanker:
    """M3's own fusion, the raw weighted sum: `WeightedRanker` unless told bends the scores first, and reorders.

    Args:
        requests: Those of `hybrid_search_requests`.
        weights: How much each head counts; Milvus takes weights up to 1.
        dense_field: The dense vector.
        sparse_field: The sparse vector.

    Raises:
        ValueError: If a weight is over 1.
    """
    weights = check_weights(weights)
    weight_of = {dense_field: float(weights.dense), sparse_field: float(weights.sparse)}
    if max(weight_of.values()) > 1:
        msg = f"Milvus takes weights from 0 to 1, got {weight_of}; divide them all by the greatest: the order stays"
        raise ValueError(msg)
    return WeightedRanker(*(weight_of[request.anns_field] for request in requests), norm_score=False)
