"""Lifecycle of an index: how it is made, found again and dropped."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
from pymilvus import CollectionSchema, DataType
from pymilvus.exceptions import MilvusException
from pymilvus.milvus_client.index import IndexParams

from m3plugins import Document
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.indexing.errors import IndexExistsError, IndexNotFoundError
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.named_index import check_no_alias
from m3plugins.indexing.writer import EmbeddedBatch
from m3plugins_milvus import repair, requests, schema
from m3plugins_milvus.client import Connection, MilvusIndexError, errors, writer_lock
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.rows import key_of, to_row
from m3plugins_milvus.schema import BLOCKS_SUFFIX

PATIENCE_S = 30.0
"""How long another process may take to make an index, before what it left is taken for what a killed one left."""

_PAUSE_S = 0.2
_KNOWN = {"a": 1.0, "b": 0.5, "c": 0.125}
"""The rows of `_check_sparse`, and their scores."""


def create(connection: Connection, name: str, identity: Identity) -> None:
    """Makes the two collections and, last, the identity that says that they are complete.

    Raises:
        IndexExistsError: If there is a collection of that name.
        ValueError: If the dense index is none that Lite has.
    """
    schema.check_name(name)
    possible, asked = connection.capabilities.dense_indexes, identity.dense_index["index_type"]
    if possible and asked not in possible:
        msg = f"dense_index on Milvus Lite must be one of {', '.join(possible)}, got {asked!r}"
        raise ValueError(msg)
    with writer_lock(connection, name):
        _create(*_collections(connection, name), identity)


def _create(documents: Collection, blocks: Collection, identity: Identity) -> None:
    connection = documents.connection
    connection.check(documents.name, blocks.name)
    for folder in map(connection.folder, (documents.name, blocks.name)):
        if folder is not None:
            repair.remove_unfinished(folder)
    if _is_unfinished(documents, blocks) if connection.exclusive else _is_left_over(documents, blocks):
        _drop(documents, blocks)
    for collection in (documents, blocks):
        if _exists(collection):
            raise _already(collection)
    made: list[Collection] = []  # another process may be making the same
    try:
        _make(blocks, schema.blocks_schema(), schema.blocks_index(), made)
        fields = schema.documents_schema(identity.dim, tenant=identity.tenant is not None, bm25=identity.bm25)
        _make(documents, fields, schema.documents_index(identity.dense_index, bm25=identity.bm25 is not None), made)
        if connection.lite:
            _check_sparse(documents, identity)
        identity.write(blocks)
    except BaseException:
        with suppress(MilvusIndexError):
            _drop(*made)
        raise


def _is_left_over(documents: Collection, blocks: Collection) -> bool:
    """Waits for another process that is making the same index; tells whether a killed one left what is there.

    What is not there at first and begins while this looks is another process' and no longer looked at.
    """
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(MilvusIndexError):  # of what is there in part
            if not _is_unfinished(documents, blocks):
                return False
            if _is_dropped(blocks):
                return True
        time.sleep(_PAUSE_S)
    return _is_unfinished(documents, blocks)


def open(connection: Connection, name: str) -> tuple[str, Identity]:
    """The true name of an index (`name` may be an alias) and what it holds, ready to be searched.

    Raises:
        IndexNotFoundError: If there is no collection of that name.
        ValueError: If there is one, but not of ours.
    """
    name = connection.resolve(name)
    documents, blocks = _collections(connection, name)
    connection.check(documents.name, blocks.name)
    identity = _made_by(documents, blocks)
    if identity is None:
        with writer_lock(connection, name):  # of a thread that is making it
            identity = _made_by(documents, blocks)
            if identity is None:
                raise _unfit(documents, blocks)
    documents.load()
    return name, identity


def _made_by(documents: Collection, blocks: Collection) -> Identity | None:
    return _identity(blocks) if _exists(documents) else None


def _unfit(documents: Collection, blocks: Collection) -> Exception:
    """Says why two collections cannot be opened as an index."""
    name = documents.name
    if _is_unfinished(documents, blocks) or not (_exists(documents) or _is_blocks(blocks)):
        return not_found(name, documents.connection.uri)
    if _is_blocks(blocks):
        lost = f"the collection {name!r}" if not _exists(documents) else f"the identity of the index {name!r}"
        msg = f"{lost} is lost, {blocks.name!r} still holds its token vectors; restore it from a copy, or drop both"
        return MilvusIndexError(msg)
    msg = f"the collection {name!r} was not made by MilvusHybridIndex.create; choose another name, or attach to it"
    return ValueError(msg)


def names(connection: Connection) -> list[str]:
    """The names of the indexes that there are, by their collections' fields: nothing is loaded."""
    connection.check_all()
    with errors("list the collections"):
        there = set(connection.client.list_collections())
    pairs = [_collections(connection, name) for name in sorted(there) if name + BLOCKS_SUFFIX in there]
    return [documents.name for documents, blocks in pairs if _are_ours(documents, blocks)]


def describe(connection: Connection, name: str, identity: Identity) -> IndexInfo:
    """What an index is, and what it holds."""
    documents, _ = _collections(connection, name)
    return IndexInfo.of(
        identity,
        name=name,
        engine="milvus",
        aliases=tuple(sorted(aliases(documents))),
        stored=documents.count(),
        first_passages=0 if identity.cut is None else documents.count('id like "%#0"'),
        format=identity.format,
    )


def drop(documents: Collection, blocks: Collection) -> None:
    """Deletes both; whatever a killed drop leaves is no index."""
    connection = documents.connection
    folders = [f for f in map(connection.folder, (documents.name, blocks.name)) if f is not None]
    with writer_lock(connection, documents.name), repair.dropping(*folders):
        Identity.drop(blocks)
        documents.drop()
        blocks.drop()


def drop_named(connection: Connection, name: str) -> None:
    """Deletes an index.

    Raises:
        IndexNotFoundError: If there is none.
        ValueError: If an alias points at it, or it is not of ours.
    """
    name, _ = open(connection, name)
    documents, blocks = _collections(connection, name)
    check_no_alias(name, aliases(documents))
    drop(documents, blocks)


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


def _collections(connection: Connection, name: str) -> tuple[Collection, Collection]:
    return Collection(connection, name), Collection(connection, name + BLOCKS_SUFFIX)


def _already(collection: Collection) -> IndexExistsError:
    return IndexExistsError(
        f"there is a collection {collection.name!r} already; open it with MilvusHybridIndex.open, or drop it"
    )


def _are_ours(documents: Collection, blocks: Collection) -> bool:
    return _is_blocks(blocks) and _has_fields(documents, schema.documents_schema(1))


def _is_dropped(blocks: Collection) -> bool:
    return _is_loadable(blocks) and Identity.is_dropped(blocks)


def _is_unfinished(documents: Collection, blocks: Collection) -> bool:
    """Whether these are ours, without an identity or without documents.

    They are being made, or being dropped, or a process was killed at that.
    """
    if not _is_blocks(blocks):
        return False
    if not _exists(documents):
        return _is_dropped(blocks) or _is_empty(blocks)
    if not _are_ours(documents, blocks) or _identity(blocks) is not None:
        return False
    if _is_dropped(blocks):
        return True
    if not _is_empty(blocks):
        return False  # the identity was lost
    if not all(_has_index(documents, field) for field in _vectors(documents)):
        return _is_empty(documents)
    documents.load()
    trials = f'{requests.among([key_of(i) for i in _KNOWN])} and vector_blocks == 0 and text == ""'
    return documents.count() == documents.count(trials)


def _is_empty(collection: Collection) -> bool:
    with errors(f"count {collection.name!r}"):
        stored = int(collection.connection.client.get_collection_stats(collection.name)["row_count"])
    if stored or not _is_loadable(collection):
        return not stored
    collection.load()
    return not collection.count()


def _is_blocks(blocks: Collection) -> bool:
    return _has_fields(blocks, schema.blocks_schema())


def _has_fields(collection: Collection, fields: CollectionSchema) -> bool:
    if not _exists(collection):
        return False
    with errors(f"describe {collection.name!r}"):
        described = collection.connection.client.describe_collection(collection.name)
    return {field.name for field in fields.fields} <= {field["name"] for field in described["fields"]}


def _identity(blocks: Collection) -> Identity | None:
    if not _is_blocks(blocks) or not _is_loadable(blocks):
        return None
    blocks.load()
    return Identity.read(blocks)


def _vectors(collection: Collection) -> list[str]:
    with errors(f"describe {collection.name!r}"):
        described = collection.connection.client.describe_collection(collection.name)
    return [field["name"] for field in described["fields"] if "VECTOR" in DataType(field["type"]).name]


def _has_index(collection: Collection, field: str) -> bool:
    with errors(f"list the indexes of {collection.name!r}"):
        return bool(collection.connection.client.list_indexes(collection.name, field_name=field))


def _is_loadable(collection: Collection) -> bool:
    with errors(f"list the indexes of {collection.name!r}"):
        return bool(collection.connection.client.list_indexes(collection.name))


def _drop(*collections: Collection) -> None:
    for collection in collections:
        if _exists(collection):
            collection.drop()


def _make(collection: Collection, fields: CollectionSchema, index: IndexParams, made: list[Collection]) -> None:
    client = collection.connection.client
    if (folder := collection.connection.folder(collection.name)) is not None:
        folder.dropping.unlink(missing_ok=True)  # of a deletion that ended before
    with errors(f"create {collection.name!r}"):
        try:
            client.create_collection(**requests.create(collection.name, fields, index))
        except MilvusException as err:
            if "already exist" in str(err) or "duplicate collection" in str(err):
                raise _already(collection) from err
            raise
        made.append(collection)
        described = client.describe_collection(collection.name)
    schema.check_created(described, fields)


def _check_sparse(documents: Collection, identity: Identity) -> None:
    """Searches three known rows: Lite 3.0 to 3.2.1 scored inner products as if they were BM25."""
    known = [Document(id=i, text="", metadata={identity.tenant: i} if identity.tenant else {}) for i in _KNOWN]
    output = M3Output(
        dense=np.zeros((len(_KNOWN), identity.dim), np.float32),
        sparse=SparseEmbeddings.from_dicts([{0: w, 1: 1.0} for w in _KNOWN.values()], vocab_size=identity.vocab_size),
        multi_vector=None,
        token_counts=np.zeros(len(_KNOWN), np.int32),
        truncated=np.zeros(len(_KNOWN), np.bool_),
    )
    batch = EmbeddedBatch(known, [document.digest() for document in known], output)
    documents.upsert(to_row(batch, position, b"", identity)[0] for position in range(len(known)))
    found = documents.search("sparse", {0: 1.0}, 3, Plan(), schema.SPARSE_INDEX)
    documents.delete([key_of(i) for i in _KNOWN])
    if {hit.id: hit.score for hit in found} != _KNOWN:
        msg = f"Milvus Lite must rank sparse vectors by their inner product, got {found}; upgrade milvus-lite"
        raise MilvusIndexError(msg)
