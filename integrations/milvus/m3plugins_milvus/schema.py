"""The two collections of an index: documents, and the blocks of their multi-vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

KEY = "key"
MAX_VARCHAR = 65_535
MAX_JSON = 65_536
MAX_NAME = 255
BLOCKS_SUFFIX = "__mv"
FLAT: Mapping[str, Any] = {"index_type": "FLAT"}
SPARSE_INDEX = "SPARSE_INVERTED_INDEX"
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


def documents_schema(dim: int) -> CollectionSchema:
    """One row a document, the commit point: it names its blocks' revision. Dynamic fields hold `facets.bounds`."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field(
        KEY, DataType.VARCHAR, max_length=32, is_primary=True
    )  # hash of the id: any id fits, none is parsed
    schema.add_field("id", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("revision", DataType.VARCHAR, max_length=32)
    schema.add_field("vector_blocks", DataType.INT32)
    schema.add_field("text_blocks", DataType.INT32)
    schema.add_field("title", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("text", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("parent_id", DataType.VARCHAR, max_length=MAX_VARCHAR, nullable=True)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("facets", DataType.VARCHAR, max_length=MAX_VARCHAR)
    schema.add_field("token_count", DataType.INT32)
    schema.add_field("truncated", DataType.BOOL)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    return schema


def documents_index(dense_index: Mapping[str, Any]) -> IndexParams:
    """Both inner products: M3's dense vectors are normalised, its sparse score is a plain sum."""
    params = MilvusClient.prepare_index_params()
    params.add_index("dense", metric_type="IP", **dense_index)
    params.add_index("sparse", index_type=SPARSE_INDEX, metric_type="IP")
    return params


def blocks_schema() -> CollectionSchema:
    """One row a block. Milvus Lite wants a vector field in every collection, so there is a small one."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, max_length=96, is_primary=True)
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
    """What an index of this type needs to return `limit` rows."""
    params = {"ef": max(limit, 64)} if "HNSW" in index_type else {}
    return {"metric_type": "IP", "params": params}
