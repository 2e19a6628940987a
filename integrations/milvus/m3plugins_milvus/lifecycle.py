"""How an index comes to be and is found again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.retrieval.index import IndexNotFoundError
from m3plugins_milvus import schema
from m3plugins_milvus.client import Connection, MilvusIndexError, errors
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.schema import BLOCKS_SUFFIX, FLAT, KEY


def create(
    connection: Connection, name: str, encoder: M3Encoder, codec: str, dense_index: Mapping[str, Any] | None
) -> Identity:
    """Makes the two collections and, last, the identity that says that they are complete.

    Raises:
        ValueError: If there is a collection of that name, or the dense index is none that Lite has.
    """
    schema.check_name(name)
    identity = Identity.of(encoder, codec, {**FLAT, **(dense_index or {})})
    if connection.lite and identity.dense_index["index_type"] not in schema.LITE_DENSE_INDEXES:
        msg = (
            f"dense_index on Milvus Lite must be one of {', '.join(schema.LITE_DENSE_INDEXES)}, "
            f"got {identity.dense_index['index_type']!r}"
        )
        raise ValueError(msg)
    documents, blocks = Collection(connection, name), Collection(connection, name + BLOCKS_SUFFIX)
    _clear_debris(documents, blocks)
    for collection in (documents, blocks):
        if _exists(collection):
            msg = f"there is a collection {collection.name!r} already; open it with MilvusHybridIndex.open, or drop it"
            raise ValueError(msg)
    try:
        _make(blocks, schema.blocks_schema(), schema.blocks_index())
        _make(documents, schema.documents_schema(encoder.dim), schema.documents_index(identity.dense_index))
        if connection.lite:
            _check_sparse(documents, encoder.dim)
        identity.write(blocks)
    except BaseException:
        for collection in (documents, blocks):
            with suppress(MilvusIndexError):
                collection.drop()
        raise
    return identity


def open(connection: Connection, name: str) -> tuple[str, Identity]:  # noqa: A001
    """The true name of an index (`name` may be an alias) and what it holds, ready to be searched.

    Raises:
        IndexNotFoundError: If there is no collection of that name.
        ValueError: If there is one, but not of ours.
    """
    client = connection.client
    with errors(f"look for {name!r}"):
        exists = client.has_collection(name)
        name = client.describe_collection(name)["collection_name"] if exists else name
        ours = exists and client.has_collection(name + BLOCKS_SUFFIX)
    if not exists:
        raise not_found(name, connection.uri)
    identity = None
    if ours:
        blocks = Collection(connection, name + BLOCKS_SUFFIX)
        blocks.load()
        identity = Identity.read(blocks)
    if identity is None:
        msg = (
            f"the collection {name!r} was not made by MilvusHybridIndex.create, or that was interrupted; "
            "choose another name, or drop it"
        )
        raise ValueError(msg)
    Collection(connection, name).load()
    return name, identity


def not_found(name: str, uri: str) -> IndexNotFoundError:
    """The error of an index that is not there."""
    return IndexNotFoundError(f"there is no index {name!r} at {uri}; make it with MilvusHybridIndex.create or m3 index")


def _exists(collection: Collection) -> bool:
    with errors(f"look for {collection.name!r}"):
        return bool(collection.connection.client.has_collection(collection.name))


def _clear_debris(documents: Collection, blocks: Collection) -> None:
    """Drops what a `create` or `drop` that was killed left: our blocks' collection without its documents'."""
    if not _exists(documents) and _exists(blocks):
        with errors(f"describe {blocks.name!r}"):
            described = blocks.connection.client.describe_collection(blocks.name)
        if {field["name"] for field in described["fields"]} == {field.name for field in schema.blocks_schema().fields}:
            blocks.drop()


def _make(collection: Collection, fields: Any, index: Any) -> None:
    client = collection.connection.client
    with errors(f"create {collection.name!r}"):
        client.create_collection(collection.name, schema=fields, index_params=index, consistency_level="Strong")
        described = client.describe_collection(collection.name)
    schema.check_created(described, fields)


def _check_sparse(documents: Collection, dim: int) -> None:
    """Searches three known rows: Lite 3.0 to 3.2.1 scored inner products as if they were BM25."""
    empty = {"revision": "", "vector_blocks": 0, "text_blocks": 0, "title": "", "text": "", "parent_id": None}
    empty |= {"metadata": {}, "facets": "", "token_count": 0, "truncated": False, "dense": np.zeros(dim, np.float32)}
    weights = {"a": 1.0, "b": 0.5, "c": 0.125}
    documents.upsert({KEY: i, "id": i, "sparse": {0: weight, 1: 1.0}, **empty} for i, weight in weights.items())
    found = documents.search("sparse", {0: 1.0}, 3, Plan(), schema.SPARSE_INDEX)
    documents.delete(list(weights))
    if {hit.id: hit.score for hit in found} != weights:
        msg = f"Milvus Lite must rank sparse vectors by their inner product, got {found}; upgrade milvus-lite"
        raise MilvusIndexError(msg)
