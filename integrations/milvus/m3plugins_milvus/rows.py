"""Documents and embeddings as rows of the documents' collection, and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m3plugins import Document
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.sparse import SENTINEL_WEIGHT, SparseEmbeddings, SparseVector
from m3plugins.indexing.document import Digest
from m3plugins.indexing.writer import EmbeddedBatch
from m3plugins_milvus.blocks import MAX_BLOCKS, POINTER, block_count, split_text
from m3plugins_milvus.collection import Row
from m3plugins_milvus.filter_tokens import bounds, filter_tokens, value_token
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.requests import quoted
from m3plugins_milvus.schema import KEY, MAX_JSON, MAX_VARCHAR

DOCUMENT = ("id", "text", "title", "parent_id", "metadata", *POINTER)
EMBEDDING = ("token_count", "truncated", "dense", "sparse")
COMPARED = ("id", "attributes", "parent_id", "parent_key", "metadata", *POINTER)
"""What says whether a document is stored, whole and unchanged."""
UNCHANGED = ("id", "text", "title", *POINTER, *EMBEDDING)
"""What new metadata leave as it is."""
AGAIN = "delete it and index it again"

MAX_TEXT = MAX_BLOCKS * (MAX_VARCHAR - 3) // 4
"""Characters whose UTF-8 fits the blocks, whatever they are."""


def key_of(id: str) -> str:
    """The primary key of a document: 32 hexadecimal digits."""
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def is_hash(text: str) -> bool:
    """Whether a string may be a key or a revision of ours: blocks are of no other, whoever wrote the row."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


def check_document(document: Document, tenant: str | None = None) -> None:
    """Refuses what Milvus could not keep; `tenant` is the metadata field that must be there, if any.

    Raises:
        ValueError: If a field is over its limit.
    """
    document.check()
    for name in ("id", "title", "parent_id"):
        _check_bytes(name, getattr(document, name) or "", MAX_VARCHAR, "shorten it")
    if len(document.text) > MAX_TEXT:
        msg = f"text must be at most {MAX_TEXT:,} characters for Milvus, got {len(document.text):,}; split it"
        raise ValueError(msg)
    if tenant is not None and not isinstance(document.metadata.get(tenant), str | int | float):
        msg = (
            f"metadata must have one string, number or boolean in {tenant!r}, by which this index is partitioned, "
            f"got {document.metadata.get(tenant)!r}"
        )
        raise ValueError(msg)
    _check_integers("metadata", document.metadata)
    as_json = json.dumps(dict(document.metadata), ensure_ascii=False)
    _check_bytes("metadata", as_json, MAX_JSON, "move the long values into the text")
    _check_findable(document.metadata)


def to_row(batch: EmbeddedBatch, position: int, vectors: bytes, identity: Identity) -> tuple[Row, list[str]]:
    """The row of one document of a batch, whose encoded token vectors are `vectors`, and the text beyond it."""
    document, embeddings = batch.documents[position], batch.embeddings
    dense, sparse = embeddings.dense, embeddings.sparse
    assert dense is not None and sparse is not None  # ingest stores all heads
    head, *rest = split_text(document.text)
    row = {
        KEY: key_of(document.id),
        "id": document.id,
        "revision": batch.digests[position].content,
        "vector_blocks": block_count(vectors),
        "text_blocks": len(rest),
        "title": document.title,
        "text": head,
        "token_count": int(embeddings.token_counts[position]),
        "truncated": bool(embeddings.truncated[position]),
        "dense": dense[position],
        "sparse": stored_sparse(sparse[position], sparse.vocab_size),
        **attributes(document, batch.digests[position], identity),
    }
    if identity.bm25 is not None:
        row["content"] = split_text(document.content)[0]
    return row, rest


def attributes(document: Document, digest: Digest, identity: Identity) -> Row:
    """The fields, dynamic ones too, that metadata and parent decide."""
    row = {
        "attributes": digest.attributes,
        "parent_id": document.parent_id,
        "parent_key": parent_key(document.parent_id),
        "metadata": dict(document.metadata),
        "facets": filter_tokens(document.metadata),
        **bounds(document.metadata),
    }
    if identity.tenant is not None:
        row["tenant"] = value_token(identity.tenant, document.metadata[identity.tenant])
    return row


def parent_key(parent_id: str | None) -> str:
    """What a parent's passages are found by."""
    return "" if parent_id is None else key_of(parent_id)


def to_document(row: Row, rest: Sequence[str] = ()) -> Document:
    """The document of a row, given the pieces of its text that are in blocks."""
    return Document(
        id=row["id"],
        text="".join([row["text"], *rest]),
        metadata=row["metadata"],
        title=row["title"],
        parent_id=row["parent_id"],
    )


def row_fault(row: Row) -> str:
    """Says why a row is none that `to_row` makes, as far as its fields were read, and the fix; "" if it may be one."""
    if "id" in row and not is_own(row):
        only = f"{KEY} == {quoted(row[KEY])}"
        return f"the row with the key {row[KEY]!r} has its id; delete(filter={only!r}) and index what is missing again"
    if fault := blocks_fault(row):
        return fault
    if not isinstance(row.get("metadata", {}), Mapping):
        return f"its metadata must be an object, got {row['metadata']!r:.40}; {AGAIN}"
    if "parent_key" in row and row["parent_key"] != parent_key(row["parent_id"]):
        return f"its parent_key must be that of its parent {row['parent_id']!r:.40}; {AGAIN}"
    return ""


def is_own(row: Row) -> bool:
    """Whether a row is under the key of its id. One that is not is no document's: nobody finds it by an id."""
    return bool(row[KEY] == key_of(row["id"]))


def blocks_fault(row: Row) -> str:
    """Says why the blocks that a row names, if that was read, can be nobody's; "" if they may be a document's."""
    vectors, text = row.get("vector_blocks", 1), row.get("text_blocks", 0)
    if 1 <= vectors <= MAX_BLOCKS and 0 <= text <= MAX_BLOCKS:
        return ""
    return f"it must have 1 to {MAX_BLOCKS:,} blocks of vectors and text, got {vectors} and {text}; {AGAIN}"


def stored_sparse(vector: SparseVector, vocab_size: int) -> dict[int, float]:
    """Token weights as they are stored: Milvus takes no empty vector."""
    return sparse_row(vector, vocab_size) or {vocab_size: SENTINEL_WEIGHT}


def sparse_row(vector: SparseVector, vocab_size: int) -> dict[int, float]:
    """Token weights as Milvus takes them: ints and floats, positive, inside the vocabulary."""
    return {i: weight for i, weight in vector.to_dict().items() if weight > 0 and i < vocab_size}


def to_output(rows: Sequence[Row], vocab_size: int) -> M3Output:
    """The embeddings that are fields of these rows (dense, sparse); the sentinel is left out."""
    first = rows[0]
    sparse = [{i: weight for i, weight in row["sparse"].items() if i < vocab_size} for row in rows if "sparse" in row]
    return M3Output(
        dense=np.array([row["dense"] for row in rows], np.float32) if "dense" in first else None,
        sparse=SparseEmbeddings.from_dicts(sparse, vocab_size=vocab_size) if "sparse" in first else None,
        multi_vector=None,
        token_counts=np.array([row.get("token_count", 0) for row in rows], np.int32),
        truncated=np.array([row.get("truncated", False) for row in rows], np.bool_),
    )


def _check_bytes(name: str, value: str, limit: int, fix: str) -> None:
    size = len(value.encode())
    if size > limit:
        msg = f"{name} must be at most {limit:,} bytes of UTF-8 for Milvus, got {size:,}; {fix}"
        raise ValueError(msg)


def _check_findable(metadata: Mapping[str, Any]) -> None:
    """Refuses more fields and values than what they are found by has room for."""
    size = max(len(filter_tokens(metadata)), len(json.dumps(bounds(metadata))))
    if size > MAX_VARCHAR:
        values = sum(len(value) if isinstance(value, list) else 1 for value in metadata.values())
        msg = (
            f"metadata must have at most about 800 fields (390 of long strings) and 2,500 values for Milvus, whose "
            f"filters find them by {MAX_VARCHAR:,} bytes, got {len(metadata):,} fields with {values:,} values, which "
            f'take {size:,}; nest what no filter needs in one field, such as {{"other": {{…}}}}'
        )
        raise ValueError(msg)


def _check_integers(path: str, value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_integers(f"{path}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _check_integers(path, item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        msg = f"{path[:80]} must fit 64 bits for Milvus, got {value.bit_length()} bits; store it as a string"
        raise ValueError(msg)
