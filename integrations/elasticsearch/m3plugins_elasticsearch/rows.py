"""Documents and embeddings as Elasticsearch keeps them, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import Head, M3Output
from m3plugins.encoding.sparse import SparseEmbeddings, SparseVector
from m3plugins.indexing.document import Digest
from m3plugins_elasticsearch.filter_tokens import filter_tokens

MAX_ID = 512
MAX_KEY = 4_000
_DROPPED_BITS = 15
"""Elasticsearch keeps the upper 17 bits of a weight: 9 significant ones, and cuts off the rest."""
_LARGEST = np.array(np.finfo(np.float32).max).view(np.uint32)
_LEAST = float(np.finfo(np.float32).tiny)

Fields = Mapping[str, list[Any]]
"""What a hit has under `fields`: doc values."""


def check_document(document: Document) -> None:
    """Refuses what Elasticsearch could not keep.

    Raises:
        ValueError: If a field is over its limit.
    """
    document.check()
    for name in ("id", "parent_id"):
        size = len((getattr(document, name) or "").encode())
        if size > MAX_ID:
            msg = f"{name} must be at most {MAX_ID} bytes of UTF-8 for Elasticsearch, got {size:,}; shorten it"
            raise ValueError(msg)
    _check_metadata("metadata", document.metadata)


def rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights to the nearest that Elasticsearch's index can hold, so that what is stored is what is scored.

    Args:
        weights: Positive, any shape, float32.

    Returns:
        The same shape, with 9 significant bits: the relative error is at most 0.2 %, where cutting would
        make it 0.4 % and every score too low.
    """
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    mask = np.uint32(0xFFFFFFFF & ~((1 << _DROPPED_BITS) - 1))
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    kept: NDArray[np.uint32] = np.minimum(bits + half, _LARGEST) & mask  # above it is infinity
    return kept.view(np.float32)


def token_weights(vector: SparseVector) -> dict[str, float]:
    """A query's weights as Elasticsearch takes them: token ids in decimal, weights above 0."""
    return {str(i): weight for i, weight in vector.to_dict().items() if weight >= _LEAST}


def our_fields(document: Document, digest: Digest, embeddings: M3Output, codec: str, row: int = 0) -> dict[str, Any]:
    """What M3 makes of a document: the values of `mapping.our_properties`.

    Args:
        document: Checked.
        digest: What it is compared by.
        embeddings: All heads.
        codec: Of the token vectors.
        row: Which of the embeddings is the document's.
    """
    assert embeddings.dense is not None and embeddings.sparse is not None  # ingest stores all heads
    assert embeddings.multi_vector is not None
    sparse = embeddings.sparse[row]
    kept = sparse.values >= _LEAST
    indices, weights = sparse.indices[kept], rounded(sparse.values[kept])
    return {
        "id": document.id,
        **digest_fields(document, digest),
        "token_count": int(embeddings.token_counts[row]),
        "truncated": bool(embeddings.truncated[row]),
        "dense": embeddings.dense[row],
        "sparse": dict(zip(map(str, indices.tolist()), weights.tolist(), strict=True)),
        "sparse_weights": _text(_packed(indices, weights)),
        "token_vectors": _text(get_codec(codec).encode(embeddings.multi_vector[row])),
    }


def digest_fields(document: Document, digest: Digest) -> dict[str, Any]:
    """What a document is compared and found by."""
    return {
        "revision": digest.content,
        "attributes": digest.attributes,
        "facets": filter_tokens(document.metadata),
    }


def own_fields(document: Document) -> dict[str, Any]:
    """The document itself, in an index of ours."""
    return {
        "title": document.title,
        "text": document.text,
        "parent_id": document.parent_id,
        "metadata": orjson.Fragment(json.dumps(dict(document.metadata), ensure_ascii=False)),
    }


def to_output(rows: Sequence[Fields], heads: Sequence[Head], codec: str, vocab_size: int, dim: int) -> M3Output:
    """The embeddings of several documents, from their doc values (by our names, without a prefix).

    Args:
        rows: Of at least one document.
        heads: Which to take.
        codec: Of the token vectors.
        vocab_size: Of the model.
        dim: Width of the token vectors.

    Raises:
        ValueError: If a value is missing, or none that `our_fields` makes.
    """
    return M3Output(
        dense=np.array([value(row, "dense") for row in rows], np.float32) if "dense" in heads else None,
        sparse=_sparse(rows, vocab_size) if "sparse" in heads else None,
        multi_vector=MultiVectorEmbeddings.from_list([get_codec(codec).decode(token_bytes(row), dim) for row in rows])
        if "multi_vector" in heads
        else None,
        token_counts=np.array([value(row, "token_count") for row in rows], np.int32),
        truncated=np.array([value(row, "truncated") for row in rows], np.bool_),
    )


def read_digest(source: Mapping[str, Any]) -> Digest | None:
    """The digest in a document's source; None if there is none that `digest_fields` makes."""
    revision, attributes = source.get("revision"), source.get("attributes")
    if not isinstance(revision, str) or not isinstance(attributes, str):
        return None
    return Digest(revision, attributes) if revision and attributes else None


def value(row: Fields, name: str) -> Any:
    """The one value of a field.

    Raises:
        ValueError: If there is none, or several.
    """
    values = row.get(name, [])
    if len(values) != 1:
        msg = f"{name} must have one value, got {len(values) or 'none'}"
        raise ValueError(msg)
    return values[0]


def token_bytes(row: Fields) -> bytes:
    """The token vectors of a document, as the codec made them.

    Raises:
        ValueError: If there are none.
    """
    if data := pybase64.b64decode(value(row, "token_vectors"), validate=True):
        return data
    msg = "token_vectors must hold at least one vector, got none"
    raise ValueError(msg)


def stored_again(row: Fields) -> dict[str, Any]:
    """The embeddings of a stored document, to be stored once more.

    Raises:
        ValueError: If a value is missing, or none that `our_fields` makes.
    """
    indices, weights = _unpacked(row)
    return {
        "token_count": value(row, "token_count"),
        "truncated": value(row, "truncated"),
        "dense": value(row, "dense"),
        "sparse": dict(zip(map(str, indices.tolist()), weights.tolist(), strict=True)),
        "sparse_weights": row.get("sparse_weights", [""])[0],
        "token_vectors": value(row, "token_vectors"),
    }


def _sparse(rows: Sequence[Fields], vocab_size: int) -> SparseEmbeddings:
    columns = [_unpacked(row) for row in rows]
    if (largest := max((int(indices.max()) for indices, _ in columns if len(indices)), default=0)) >= vocab_size:
        msg = f"sparse_weights must be of token ids below {vocab_size}, got {largest}"
        raise ValueError(msg)
    return SparseEmbeddings(
        indptr=np.concatenate([[0], np.cumsum([len(indices) for indices, _ in columns])]).astype(np.int64),
        indices=np.concatenate([indices for indices, _ in columns]).astype(np.int32),
        values=np.concatenate([weights for _, weights in columns]).astype(np.float32),
        vocab_size=vocab_size,
    )


def _packed(indices: NDArray[np.int32], weights: NDArray[np.float32]) -> bytes:
    """Token ids, then weights, 4 bytes each, little-endian."""
    return indices.astype("<i4").tobytes() + weights.astype("<f4").tobytes()


def _unpacked(row: Fields) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    packed = row.get("sparse_weights", [""])[0]  # a value of no bytes does not come back
    data = pybase64.b64decode(packed, validate=True)
    if len(data) % 8:
        msg = f"sparse_weights take 8 bytes a token, got {len(data)} bytes"
        raise ValueError(msg)
    half = len(data) // 2
    indices, weights = np.frombuffer(data[:half], "<i4"), np.frombuffer(data[half:], "<f4")
    sound = len(np.unique(indices)) == len(indices) and (indices >= 0).all()
    if not sound or not (np.isfinite(weights) & (weights > 0)).all():
        msg = "sparse_weights must be of distinct token ids and finite weights above 0"
        raise ValueError(msg)
    return indices, weights


def _text(data: bytes) -> str:
    return pybase64.b64encode(data).decode()


def _check_metadata(path: str, value: object) -> None:
    """What no `Document` refuses, and Elasticsearch does."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if "\0" in key or len(key) > MAX_KEY:
                msg = f"{path[:80]} must have keys without NUL, of at most {MAX_KEY:,} characters, got {key[:80]!r}"
                raise ValueError(msg)
            _check_metadata(f"{path}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _check_metadata(path, item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        msg = f"{path[:80]} must fit 64 bits for Elasticsearch, got {value.bit_length()} bits; store it as a string"
        raise ValueError(msg)
