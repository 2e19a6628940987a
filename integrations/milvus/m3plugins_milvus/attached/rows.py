"""A foreign collection's rows as documents and embeddings, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType

from m3plugins import Document, M3Output, SparseEmbeddings
from m3plugins_milvus.attached.expressions import to_key
from m3plugins_milvus.attached.fields import TableSchema, VectorIndex
from m3plugins_milvus.own_schema import hybrid_rows

Row = dict[str, Any]


def to_document(row: Row, schema: TableSchema) -> Document:
    """The document of a row that was read with `schema.document`."""
    fields = schema.fields
    return Document(
        id=str(row[fields.id]),
        text=row[fields.text] or "",
        title=(fields.title and row[fields.title]) or "",
        parent_id=row[fields.parent_id] if fields.parent_id else None,
        metadata=to_metadata(row, schema),
    )


def to_metadata(row: Row, schema: TableSchema) -> dict[str, Any]:
    """The metadata of a row that was read with `schema.metadata`; a field of the collection's that is null is none."""
    if schema.fields.metadata:
        stored = row.get(schema.fields.metadata)
        return dict(stored) if isinstance(stored, Mapping) else {}
    scalars = {field: row[field] for field in schema.scalars if row.get(field) is not None}
    return scalars | {field: value for field, value in row.items() if field not in schema.kinds}


def to_output(rows: Sequence[Row], schema: TableSchema, vocab_size: int) -> M3Output:
    """The embeddings that these one or more rows were read with."""
    read = {head: index for head, index in schema.indexes.items() if index.field in rows[0]}
    dense, sparse = read.get("dense"), read.get("sparse")
    weights = [row[sparse.field] for row in rows] if sparse else []
    weights = [{i: weight for i, weight in row.items() if i < vocab_size and weight > 0} for row in weights]
    return M3Output(
        dense=np.stack([_unit(row[dense.field], dense) for row in rows]) if dense else None,
        sparse=SparseEmbeddings.from_dicts(weights, vocab_size=vocab_size) if sparse else None,
        multi_vector=None,
        token_counts=np.zeros(len(rows), np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )


def to_vector(vector: NDArray[np.float32], index: VectorIndex) -> NDArray[np.floating]:
    """A dense vector as its field takes it."""
    return vector.astype(np.float16) if index.kind == DataType.FLOAT16_VECTOR else vector


def to_rows(
    documents: Sequence[Document], vectors: Sequence[Mapping[str, Any]], old: Mapping[str, Row], schema: TableSchema
) -> list[Row]:
    """The rows of documents.

    Args:
        documents: That passed `check_document`.
        vectors: The vectors of each, by field.
        old: The rows that are replaced, by id, with the fields that stay.
        schema: Of the collection.
    """
    fields = schema.fields
    rows = []
    for document, own in zip(documents, vectors, strict=True):
        row = {field: value for field, value in old.get(document.id, {}).items() if value is not None}
        row |= own
        row |= {fields.metadata: dict(document.metadata)} if fields.metadata else document.metadata
        row[fields.id] = to_key(document.id, integer=integer_ids(schema))
        row[fields.text] = document.text
        if fields.title:
            row[fields.title] = document.title
        if fields.parent_id and document.parent_id is not None:
            row[fields.parent_id] = document.parent_id
        rows.append(row)
    return rows


def vector_rows(embeddings: M3Output, schema: TableSchema) -> list[Row]:
    """The vectors that the collection stores, of each text by field."""
    rows = hybrid_rows(embeddings.select(schema.indexes))
    renamed = [{schema.indexes[head].field: row[head] for head in schema.indexes} for row in rows]
    if (dense := schema.indexes.get("dense")) is not None:
        for row in renamed:
            row[dense.field] = to_vector(row[dense.field], dense)
    return renamed


def integer_ids(schema: TableSchema) -> bool:
    """Whether the primary key is an integer."""
    return bool(schema.kinds[schema.fields.id] == DataType.INT64)


def check_document(document: Document, schema: TableSchema) -> None:
    """Refuses what this collection has no place for.

    Raises:
        ValueError: If so.
    """
    document.check()
    if schema.auto_id:
        msg = "Milvus makes the ids of this collection (auto_id), so documents cannot be stored under theirs"
        raise ValueError(msg)
    if to_key(document.id, integer=integer_ids(schema)) is None:
        msg = f"id must be an integer of 64 bits, as the primary key {schema.fields.id!r} is, got {document.id!r}"
        raise ValueError(msg)
    for name, value in {"title": document.title, "parent_id": document.parent_id}.items():
        if value and not getattr(schema.fields, name):
            msg = f"{name} has no field in this collection, got {value!r}; name one in Fields, or put it elsewhere"
            raise ValueError(msg)
    if schema.fields.metadata:
        return
    if not schema.dynamic and (unknown := sorted(document.metadata.keys() - set(schema.scalars))):
        msg = f"metadata must be of the fields {schema.scalars}, this collection takes no others, got {unknown}"
        raise ValueError(msg)
    if taken := sorted(document.metadata.keys() & (schema.kinds.keys() - set(schema.scalars))):
        msg = f"metadata must not be named as the collection's other fields, got {taken}; rename them"
        raise ValueError(msg)


def _unit(stored: Any, index: VectorIndex) -> NDArray[np.float32]:
    """The vector that a row holds; of unit length where the metric takes it as such."""
    if index.kind == DataType.FLOAT16_VECTOR:
        raw = stored[0] if isinstance(stored, list) and isinstance(stored[0], bytes) else stored
        stored = np.frombuffer(raw, np.float16) if isinstance(raw, bytes) else raw
    vector: NDArray[np.float32] = np.asarray(stored, np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-12) if index.metric == "COSINE" else vector
