"""The requests of a search, as pure functions of what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from m3plugins.encoding.output import M3Output
from m3plugins.scoring.heads import Signal
from m3plugins_elasticsearch.field_paths import FieldPaths
from m3plugins_elasticsearch.identity import OVERSAMPLE, Identity
from m3plugins_elasticsearch.mapping import VECTORS
from m3plugins_elasticsearch.rows import token_weights

MAX_K = 10_000
"""Elasticsearch's own limit on what one search may consider and return."""

_LEAST_CANDIDATES = 100
_PLACE = "place-"

Query = dict[str, Any]


def light(fields: Sequence[str], size: int) -> dict[str, Any]:
    """What a search returns: doc values alone. Not to load the documents is 3 to 5 times as fast."""
    return {"size": size, "track_total_hits": False, "stored_fields": "_none_", "docvalue_fields": list(fields)}


def check_k(k: int) -> int:
    """The number of documents.

    Raises:
        ValueError: If Elasticsearch cannot search for so many.
    """
    if not 1 <= k <= MAX_K:
        msg = f"Elasticsearch searches for 1 to {MAX_K:,} documents at a time, got {k:,}; ask for fewer candidates"
        raise ValueError(msg)
    return k


def searches(
    query: M3Output, text: str | None, k: int, where: Query | None, identity: Identity, paths: FieldPaths
) -> dict[Signal, dict[str, Any]]:
    """The best k of each signal: one body each, for one `_msearch`.

    Args:
        query: Of one text. Without any token weight there is nothing to ask the sparse signal.
        text: The query itself, for BM25.
        k: Documents a signal.
        where: Only these documents.
        identity: Of the index.
        paths: Of its documents.
    """
    bodies: dict[Signal, dict[str, Any]] = {}
    found = {**light([paths.field("id")], k), "sort": ["_score", {paths.field("id"): "asc"}]}
    if query.dense is not None:
        knn = nearest(query, k, identity, paths)
        bodies["dense"] = {**found, "knn": {**knn, **({"filter": where} if where else {})}}
    if query.sparse is not None and (weights := token_weights(query.sparse[0])):
        bodies["sparse"] = {**found, "query": _among(lexical(weights, paths), where)}
    if text is not None:
        bodies["bm25"] = {**found, "query": _among({"match": {"content": {"query": text}}}, where)}
    return bodies


def nearest(query: M3Output, k: int, identity: Identity, paths: FieldPaths) -> Query:
    """The k documents with the greatest dot product, compared by their whole vectors.

    A graph of whole vectors has nothing to rescore, so it is searched more widely instead.
    """
    assert query.dense is not None  # the caller asked
    kind = identity.dense_index["type"]
    return {
        "field": paths.field("dense"),
        "query_vector": query.dense[0].tolist(),
        "k": k,
        "num_candidates": min(max((4 if kind == "hnsw" else 2) * k, _LEAST_CANDIDATES), MAX_K),
        "rescore_vector": {"oversample": min(OVERSAMPLE[kind], MAX_K / k)},
    }


def lexical(weights: Mapping[str, float], paths: FieldPaths) -> Query:
    """The sum of products of shared weights, of all of them: Elasticsearch prunes unless told not to."""
    return {"sparse_vector": {"field": paths.field("sparse"), "query_vector": dict(weights), "prune": False}}


def scores(query: M3Output, text: str | None, ids: Sequence[str], paths: FieldPaths) -> dict[str, Any]:
    """Exact scores of these documents, each signal's under its name in `matched_queries`.

    A vector query that is filtered down to as many documents as it may return compares them all, by their
    whole vectors where it rescores; none is loaded.
    """
    these = among_ids(ids)
    should = places(ids, paths)
    if query.dense is not None:
        knn = {
            "_name": "dense",
            "field": paths.field("dense"),
            "query_vector": query.dense[0].tolist(),
            "k": len(ids),
            "num_candidates": len(ids),
            "filter": these,
            "rescore_vector": {"oversample": 1.0},
        }
        should.append({"knn": knn})
    if query.sparse is not None and (weights := token_weights(query.sparse[0])):
        should.append({"sparse_vector": {**lexical(weights, paths)["sparse_vector"], "_name": "sparse"}})
    if text is not None:
        should.append({"match": {"content": {"query": text, "_name": "bm25"}}})
    fields = [paths.field("id"), paths.field("token_count")]
    return {**light(fields, len(ids)), "query": {"bool": {"filter": [these], "should": should}}}


def doc_values(ids: Sequence[str], fields: Sequence[str], paths: FieldPaths) -> dict[str, Any]:
    """Doc values of these documents."""
    query = {"bool": {"filter": [among_ids(ids)], "should": places(ids, paths)}}
    return {**light([paths.field(name) for name in ("id", *fields)], len(ids)), "query": query}


def whole(ids: Sequence[str], paths: FieldPaths) -> dict[str, Any]:
    """Which of these documents have all of our fields; of the large ones it is asked only whether they are there."""
    there = [{"exists": {"field": paths.field(name)}} for name in VECTORS]
    fields = [paths.field(name) for name in ("id", "token_count", "truncated")]
    return {**light(fields, len(ids)), "query": {"bool": {"filter": [among_ids(ids), *there]}}}


def among_ids(ids: Sequence[str]) -> Query:
    """The documents of these ids."""
    return {"ids": {"values": list(ids)}}


def places(ids: Sequence[str], paths: FieldPaths) -> list[Query]:
    """Queries whose names spell the place of a hit among these ids, a bit each; see `place`.

    A document of someone else's may be a copy, with fields of ours that name another document. Its own `_id` is not in
    doc values, and to load it takes 0.3 ms a document; what is of ours alone names itself.
    """
    bits = range((len(ids) - 1).bit_length() if paths.prefix else 0)
    chosen = {bit: [i for place, i in enumerate(ids) if place >> bit & 1] for bit in bits}
    return [{"ids": {"values": some, "_name": f"{_PLACE}{bit}", "boost": 0.0}} for bit, some in chosen.items()]


def place(hit: Mapping[str, Any]) -> int:
    """Which of the ids that `places` was given a hit has.

    Example:
        >>> place({"matched_queries": ["dense", "place-0", "place-2"]}), place({})
        (5, 0)
    """
    names = hit.get("matched_queries", ())
    return sum(1 << int(name.removeprefix(_PLACE)) for name in names if name.startswith(_PLACE))


def _among(query: Query, where: Query | None) -> Query:
    return {"bool": {"must": [query], "filter": [where]}} if where else query
