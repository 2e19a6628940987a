"""What each call asks of Milvus: the keyword arguments of `MilvusClient`'s methods, from plain values.

Expressions go through `filter=` and hold keys, quoted (hashes, unless somebody else wrote the row), and what
`filters` compiles: pymilvus does not escape `ids=`. Every request and every answer is bounded, in rows and in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pymilvus import CollectionSchema
from pymilvus.milvus_client.index import IndexParams

from m3plugins.encoding.text import utf8_length
from m3plugins_milvus.schema import KEY, MAX_VARCHAR

MAX_ROWS = 16_384
"""A server answers a query or a search with no more."""
MAX_KEYS = 1000
MAX_WRITE = 4 << 20
MAX_READ = 32 << 20
"""Bytes of an answer: servers allow 64 MiB (100 MiB later) and count what they estimate, not what they send."""

Consistency = Literal["Strong", "Session", "Bounded", "Eventually"]
Row = dict[str, Any]

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})

_HASHES = {KEY, "revision", "attributes", "parent_key", "tenant"}
_NARROW = frozenset({*_HASHES, "vector_blocks", "text_blocks", "token_count", "truncated"})


def create(name: str, fields: CollectionSchema, index: IndexParams) -> dict[str, Any]:
    """Asks `create_collection` to make, index and load it in one call."""
    return {"collection_name": name, "schema": fields, "index_params": index, "consistency_level": "Strong"}


def write(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Asks `insert` or `upsert` to store rows."""
    return {"collection_name": name, "data": [{field: _quick(value) for field, value in row.items()} for row in rows]}


def delete(name: str, keys: Sequence[str]) -> dict[str, Any]:
    """Asks `delete` for at most MAX_KEYS keys."""
    return {"collection_name": name, "filter": among(keys)}


def query(name: str, expression: str, fields: Sequence[str], limit: int) -> dict[str, Any]:
    """Asks `query` for rows. What we read decides what we write, so it sees every write before it."""
    return {
        "collection_name": name,
        "filter": expression,
        "output_fields": list(fields),
        "limit": limit,
        "consistency_level": "Strong",
    }


def count(name: str, expression: str) -> dict[str, Any]:
    """Asks `query` for the number of rows alone."""
    return {
        "collection_name": name,
        "filter": expression,
        "output_fields": ["count(*)"],
        "consistency_level": "Strong",
    }


def search(
    name: str,
    field: str,
    vector: object,
    expression: str,
    limit: int,
    params: Mapping[str, Any],
    consistency: Consistency,
) -> dict[str, Any]:
    """Asks `search` for one vector; `params` are of the index."""
    return {
        "collection_name": name,
        "data": [vector],
        "anns_field": field,
        "filter": expression,
        "limit": limit,
        "output_fields": ["id"],
        "search_params": dict(params),
        "consistency_level": consistency,
    }


def among(keys: Sequence[str], field: str = KEY) -> str:
    """The rows of these keys. As the whole expression: Lite then looks them up instead of testing every row."""
    return f"{field} in [{', '.join(map(quoted, keys))}]"


def quoted(text: str) -> str:
    """A string as an expression says it.

    Other control characters stay as they are: Milvus Lite does not read the escapes that JSON has for them.
    """
    return f'"{text.translate(_ESCAPES)}"'


def under(prefix: str) -> str:
    """The rows whose key begins so."""
    return f'{KEY} like "{prefix}%"' if prefix else ""


def both(one: str, other: str) -> str:
    """The rows that match both; an empty expression is all rows."""
    return f"({one}) and ({other})" if one and other else one or other


def rows_per_read(fields: Collection[str]) -> int:
    """How many rows with these fields stay within MAX_READ, whatever is in them.

    Example:
        >>> rows_per_read(["key", "revision"]), rows_per_read(["key", "id", "dense", "sparse"])
        (1000, 170)
    """
    wide = sum(field not in _NARROW for field in fields)
    return min(MAX_KEYS, MAX_READ // (wide * (MAX_VARCHAR + 1))) if wide else MAX_KEYS


def row_size(row: Row) -> int:
    """About how many bytes a row takes in a request."""
    return sum(len(field) + 8 + _size(value) for field, value in row.items())


def _size(value: object) -> int:
    if isinstance(value, str):
        return utf8_length(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict) and value and all(isinstance(key, int) for key in value):
        return 8 * len(value)  # a sparse vector: uint32 and float32
    if isinstance(value, list | dict):
        return len(json.dumps(value, ensure_ascii=False).encode())
    return 16  # a number, as JSON at most


class _Text(str):
    """A string that has no characters to iterate over: pymilvus "checks" every one of them, 5 ms a block."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(())


def _quick(value: object) -> object:
    return _Text(value) if type(value) is str else value
