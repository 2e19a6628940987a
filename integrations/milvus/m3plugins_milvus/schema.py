"""The two collections of an index: documents, and the blocks of their multi-vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

KEY = "key"
MAX_VARCHAR = 65_535
MAX_JSON = 65_536
MAX_NAME = 255
BLOCKS_SUFFIX = "__mv"
FLAT: Mapping[str, Any] = {"index_type": "FLAT"}
SPARSE_INDEX = "SPARSE_INVERTED_INDEX"
BM25 = "BM25"
PUBLIC_FIELDS = ("id", "title", "text", "parent_id", "metadata")
"""Fields that users' filter expressions may name."""

LITE_DENSE_INDEXES = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
"""Lite accepts any other name, and fails when it next loads the collection."""


def check_name(name: str) -> str:
    """The name, if the collection and its blocks can have it.

    Raises:
        ValueError: If not.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or len(name) > MAX_NAME - len(BLOCKS_SUFFIX):
        msg = (
            f"a collection's name must be letters, digits and underscores, with no digit first and of at most "
            f"{MAX_NAME - len(BLOCKS_SUFFIX)} characters, got {name!r}"
        )
        raise ValueError(msg)
    return name


def documents_schema(dim: int, *, tenant: bool = False, bm25: Mapping[str, Any] | None = None) -> CollectionSchema:
    """One row a document, the commit point: it names its blocks' revision. Dynamic fields hold `filter_tokens.bounds`.

    Args:
        dim: Width of the dense vectors.
        tenant: Whether there is a partition key.
        bm25: Milvus' analyzer parameters, for full-text search of what is encoded (title and text).
    """
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    # A hash of the id: any id fits, none is parsed.
    schema.add_field(KEY, DataType.VARCHAR, max_length=32, is_primary=True)
    schema.add_field("id", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("revision", DataType.VARCHAR, max_length=32)
    schema.add_field("attributes", DataType.VARCHAR, max_length=32)
    schema.add_field("vector_blocks", DataType.INT32)
    schema.add_field("text_blocks", DataType.INT32)
    schema.add_field("title", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("text", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("parent_id", DataType.VARCHAR, max_length=MAX_VARCHAR, nullable=True)
    schema.add_field("parent_key", DataType.VARCHAR, max_length=32)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("facets", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("token_count", DataType.INT32)
    schema.add_field("truncated", DataType.BOOL)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    if tenant:
        schema.add_field("tenant", DataType.VARCHAR, max_length=32, is_partition_key=True)
    if bm25 is not None:
        schema.add_field(
            "content", DataType.VARCHAR, max_length=MAX_VARCHAR, enable_analyzer=True, analyzer_params=dict(bm25)
        )
        schema.add_field("bm25", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["content"],
                output_field_names=["bm25"],
            )
        )
    return schema


def documents_index(dense_index: Mapping[str, Any], *, bm25: bool = False) -> IndexParams:
    """Both inner products: M3's dense vectors are normalised, its sparse score is a plain sum."""
    params = MilvusClient.prepare_index_params()
    params.add_index("dense", metric_type="IP", **dense_index)
    params.add_index("sparse", index_type=SPARSE_INDEX, metric_type="IP")
    if bm25:
        params.add_index("bm25", index_type=SPARSE_INDEX, metric_type=BM25)
    return params


def blocks_schema() -> CollectionSchema:
    """One row a block, partitioned by the first digit of its key.

    Milvus Lite merges the files of a partition in memory, and cannot once these hold 2 GiB of text. It also
    wants a vector field in every collection, so there is a small one.
    """
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, max_length=96, is_primary=True)
    schema.add_field("shard", DataType.VARCHAR, max_length=1, is_partition_key=True)
    schema.add_field("data", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)
    return schema


def blocks_index() -> IndexParams:
    """The index that the small vector field must have."""
    params = MilvusClient.prepare_index_params()
    params.add_index("unused", metric_type="IP", **FLAT)
    return params


def check_created(described: Mapping[str, Any], asked: CollectionSchema) -> None:
    """Compares a collection with what was asked for: Lite drops fields of types that it lacks and says nothing.

    Raises:
        ValueError: If a field is missing or of another type.
    """
    got = {field["name"]: field["type"] for field in described["fields"]}
    for field in asked.fields:
        if got.get(field.name) != field.dtype:
            msg = f"Milvus made the collection without the field {field.name!r} as asked; its version is not supported"
            raise ValueError(msg)


def search_params(index_type: str, limit: int) -> dict[str, Any]:
    """What an index of this type (`BM25` is one here) needs to return `limit` rows."""
    params = {"ef": max(limit, 64)} if "HNSW" in index_type else {}
    return {"metric_type": BM25 if index_type == BM25 else "IP", "params": params}
