"""How an index comes to be and is found again."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from m3plugins import Document
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.retrieval.index import IndexNotFoundError
from m3plugins.retrieval.writing import Batch
from m3plugins_milvus import requests, schema
from m3plugins_milvus.client import Connection, MilvusIndexError, errors
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.rows import key_of, to_row
from m3plugins_milvus.schema import BLOCKS_SUFFIX


def create(connection: Connection, name: str, identity: Identity) -> None:
    """Makes the two collections and, last, the identity that says that they are complete.

    Raises:
        ValueError: If there is a collection of that name, or the dense index is none that Lite has.
    """
    schema.check_name(name)
    possible, asked = connection.capabilities.dense_indexes, identity.dense_index["index_type"]
    if possible and asked not in possible:
        msg = f"dense_index on Milvus Lite must be one of {', '.join(possible)}, got {asked!r}"
        raise ValueError(msg)
    documents, blocks = Collection(connection, name), Collection(connection, name + BLOCKS_SUFFIX)
    _clear_debris(documents, blocks)
    for collection in (documents, blocks):
        if _exists(collection):
            msg = f"there is a collection {collection.name!r} already; open it with MilvusHybridIndex.open, or drop it"
            raise ValueError(msg)
    try:
        _make(blocks, schema.blocks_schema(), schema.blocks_index())
        fields = schema.documents_schema(identity.dim, tenant=identity.tenant is not None, bm25=identity.bm25)
        _make(documents, fields, schema.documents_index(identity.dense_index, bm25=identity.bm25 is not None))
        if connection.lite:
            _check_sparse(documents, identity)
        identity.write(blocks)
    except BaseException:
        for collection in (documents, blocks):
            with suppress(MilvusIndexError):
                collection.drop()
        raise


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


def swap(documents: Collection, alias: str) -> str | None:
    """Points an alias at a collection; returns the one that it pointed at.

    Raises:
        ValueError: If `alias` is the name of a collection.
    """
    client, name = documents.connection.client, documents.name
    schema.check_name(alias)
    with errors(f"point the alias {alias!r} at {name!r}"):
        before = client.describe_collection(alias)["collection_name"] if client.has_collection(alias) else None
        if before == alias:
            msg = f"{alias!r} is a collection, so it cannot be an alias; choose another, or drop the collection"
            raise ValueError(msg)
        if before is None:
            client.create_alias(name, alias)
        else:
            client.alter_alias(name, alias)
    return before


def aliases(documents: Collection) -> list[str]:
    """The aliases of a collection."""
    with errors(f"list the aliases of {documents.name!r}"):
        return list(documents.connection.client.list_aliases(documents.name)["aliases"])


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
        client.create_collection(**requests.create(collection.name, fields, index))
        described = client.describe_collection(collection.name)
    schema.check_created(described, fields)


def _check_sparse(documents: Collection, identity: Identity) -> None:
    """Searches three known rows: Lite 3.0 to 3.2.1 scored inner products as if they were BM25."""
    weights = {"a": 1.0, "b": 0.5, "c": 0.125}
    known = [Document(id=i, text="", metadata={identity.tenant: i} if identity.tenant else {}) for i in weights]
    output = M3Output(
        dense=np.zeros((len(weights), identity.dim), np.float32),
        sparse=SparseEmbeddings.from_dicts([{0: w, 1: 1.0} for w in weights.values()], vocab_size=identity.vocab_size),
        multi_vector=None,
        token_counts=np.zeros(len(weights), np.int32),
        truncated=np.zeros(len(weights), np.bool_),
    )
    batch = Batch(known, [document.digest() for document in known], output)
    documents.upsert(to_row(batch, position, b"", identity)[0] for position in range(len(known)))
    found = documents.search("sparse", {0: 1.0}, 3, Plan(), schema.SPARSE_INDEX)
    documents.delete([key_of(i) for i in weights])
    if {hit.id: hit.score for hit in found} != weights:
        msg = f"Milvus Lite must rank sparse vectors by their inner product, got {found}; upgrade milvus-lite"
        raise MilvusIndexError(msg)
