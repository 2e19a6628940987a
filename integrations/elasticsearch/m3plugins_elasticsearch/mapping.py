"""The fields of a document, and how Elasticsearch is to keep them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from m3plugins_elasticsearch.identity import Identity

META = "m3plugins"
"""The key of the mapping's `_meta` that holds an index's identity."""

WRITE_ALIAS = "m3-write."
"""Ahead of an index's name: the alias that it is written by, so that no write can make an index anew."""

MAX_NAME = 255 - len(WRITE_ALIAS)
MAX_ANALYZED = 4_000
"""Characters of a metadata string that native queries see; a term has at most 32,766 bytes."""

VECTORS = ("dense", "sparse", "sparse_weights", "token_vectors")
"""Kept in doc values and in the indexes alone: in the source they would be most of every read."""

SETTINGS: Mapping[str, Any] = {
    "index.dense_vector.hnsw_enable_early_termination": False,
    "index.mapping.exclude_source_vectors": True,
}
"""What a server that knows these settings (some from 9.2 on) is told, whatever its defaults are.

Ending the search of a graph early costs recall (benchmarks/elastic_recall.py). Vectors are read from doc values, never
from the source; a server that can rebuild them keeps no second copy for its recovery.
"""

_UNSEARCHED: Mapping[str, Any] = {"type": "keyword", "index": False}


def check_name(name: str) -> str:
    """The name, if an index can have it.

    Raises:
        ValueError: If not.
    """
    valid = re.fullmatch(r"[^-_+][^\\/*?\"<>| ,#:]*", name) and name == name.lower() and name not in (".", "..")
    if not valid or len(name.encode()) > MAX_NAME:
        msg = (
            f"an index's name must be in lower case, without \\ / * ? \" < > | , # : and spaces, must not begin with "
            f"- _ or +, and have at most {MAX_NAME} bytes, got {name!r}"
        )
        raise ValueError(msg)
    return name


def own_mapping(identity: Identity) -> dict[str, Any]:
    """Mapping of an index of ours: strict, nothing is left to guesses."""
    text = {"type": "text", "index": False, **({"copy_to": "content"} if identity.bm25 is not None else {})}
    properties = {
        **our_properties(identity),
        "title": text,
        "text": text,
        "parent_id": {"type": "keyword"},
        "metadata": metadata_mapping(identity.metadata),
    }
    if identity.bm25 is not None:
        properties["content"] = {"type": "text", "analyzer": _analyzer_name(identity.bm25)}
    return {
        "dynamic": "strict",
        "_source": {"excludes": [*VECTORS, "facets", "id"]},
        "_meta": {META: identity.to_dict()},
        "properties": properties,
    }


def our_properties(identity: Identity) -> dict[str, Any]:
    """Mappings of the fields that hold what M3 makes of a document, and what we find and compare it by."""
    return {
        "id": {"type": "keyword"},
        **({} if identity.fields is None else {"model": {"type": "keyword"}}),
        "revision": _UNSEARCHED,
        "attributes": _UNSEARCHED,
        "token_count": {"type": "integer", "index": False},
        "truncated": {"type": "boolean", "index": False},
        "dense": {
            "type": "dense_vector",
            "dims": identity.dim,
            "similarity": "dot_product",
            "index": True,
            "index_options": dict(identity.dense_index),
        },
        "sparse": {"type": "sparse_vector", "index_options": {"prune": False}},
        "sparse_weights": {"type": "binary", "doc_values": True},
        "token_vectors": {"type": "binary", "doc_values": True},
        "facets": {"type": "keyword", "doc_values": False},
    }


def metadata_mapping(fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """Mapping of metadata, for native queries and aggregations; filters of ours go by the tokens.

    Args:
        fields: Mappings of the fields that native queries need typed; None takes any field, as a string.
    """
    if fields is None:
        return {"type": "flattened", "ignore_above": MAX_ANALYZED, "depth_limit": 64}
    return {"type": "object", "dynamic": False, "properties": dict(fields)}


def own_settings(identity: Identity, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's index settings, with the analyzer, if it is given by its definition."""
    settings = dict(settings or {})
    if not isinstance(identity.bm25, Mapping):
        return settings
    analysis = settings.get("analysis", {})
    analyzers = {**analysis.get("analyzer", {}), _analyzer_name(identity.bm25): dict(identity.bm25)}
    return {**settings, "analysis": {**analysis, "analyzer": analyzers}}


def missing_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults in `SETTINGS` that the user's settings do not override, nested or dotted.

    Example:
        >>> list(missing_defaults({"mapping": {"exclude_source_vectors": False}}))
        ['index.dense_vector.hnsw_enable_early_termination']
    """
    said = set(_paths(settings))
    return {name: value for name, value in SETTINGS.items() if not said & {name, name.removeprefix("index.")}}


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _analyzer_name(bm25: str | Mapping[str, Any]) -> str:
    return bm25 if isinstance(bm25, str) else "m3_bm25"
