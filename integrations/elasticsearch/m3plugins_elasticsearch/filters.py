"""Compiler of the neutral filter tree to an Elasticsearch query over the filter tokens of a document.

Exact, except for substrings, prefixes and ranges about strings of more than `EXACT` characters and for
filters beyond what every node accepts: those match too much, and `Plan.accepts` decides the rest in Python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from m3plugins.indexing.filters import And, AnyFilter, Comparison, Filter, Not, Or, matches
from m3plugins_elasticsearch.filter_tokens import conditions, is_exact, tokens

MAX_TERMS = 65_536
"""Values of one `terms` query: index.max_terms_count."""
MAX_CLAUSES = 400
"""All of a filter's queries. A node allows 1,024 or more in a request, which may hold a filter twice."""
MAX_DEPTH = 16
"""Joins in joins. A node allows 30 levels of queries in a request."""
MAX_SIZE = 4_000_000
"""Characters of all values of a filter. A request may have 100 MiB."""

Query = dict[str, Any]

_SERVER_FIELDS = frozenset(
    {"_id", "_index", "_routing", "_ignored", "_seq_no", "_tier", "_field_names", "_source", "_version", "_doc_count"}
)
_KEYED = frozenset(
    "term terms terms_set range prefix wildcard regexp fuzzy match match_phrase match_phrase_prefix match_bool_prefix "
    "intervals span_term text_expansion weighted_tokens geo_distance geo_bounding_box geo_polygon geo_shape geo_grid "
    "shape".split()
)
"""Queries that hold what they ask by the field's name."""
_OPTIONS = frozenset({"boost", "_name"})
_GEO_OPTIONS = _OPTIONS | {"distance", "distance_type", "validation_method", "ignore_unmapped", "type"}
_NAMING = {kind: "field" for kind in ("exists", "knn", "sparse_vector", "rank_feature", "distance_feature", "semantic")}
_NAMING |= {kind: "fields" for kind in ("multi_match", "combined_fields", "query_string", "simple_query_string")}
_NAMING |= {"more_like_this": "fields", "nested": "path"}
_INNER = {
    "bool": ("must", "filter", "should", "must_not"),
    "boosting": ("positive", "negative"),
    "constant_score": ("filter",),
    "dis_max": ("queries",),
    "function_score": ("query",),
    "knn": ("filter",),
    "nested": ("query",),
    "script_score": ("query",),
    "span_first": ("match",),
    "span_near": ("clauses",),
    "span_not": ("include", "exclude"),
    "span_or": ("clauses",),
}
_LUCENE_VALUE = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])*/|[\[{][^\]}]*[\]}]|\\.', re.DOTALL)
_LUCENE_FIELD = re.compile(r"(?<![\w.*\0])([\w.]+):(\w[\w.]*)?")


@dataclass(frozen=True)
class Plan:
    """What to ask Elasticsearch, and what to check on what it returns.

    Attributes:
        query: Matches every wanted document, and maybe others; None is all documents.
        check: The filter that decides, where the query is not exact.
    """

    query: Query | None = None
    check: Filter | None = None

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a document that the query matched is wanted."""
        return self.check is None or matches(self.check, metadata)


def compile_filter(filter: AnyFilter | None, tokens_field: str = "facets") -> Plan:
    """The plan of a neutral filter, or of a query in Elasticsearch's own language.

    Args:
        filter: The filter.
        tokens_field: The `keyword` field of the tokens.

    Raises:
        TypeError: If the filter is neither.
        ValueError: If a query is not of exactly one key.
    """
    if filter is None:
        return Plan()
    if isinstance(filter, dict):
        if len(filter) != 1:
            msg = (
                'an Elasticsearch query is an object with one key, like {"term": {"metadata.lang": "en"}}, '
                f"got the keys {list(filter)}; join queries by bool, or leave the filter out"
            )
            raise ValueError(msg)
        return Plan(filter)
    if not isinstance(filter, Comparison | And | Or | Not):
        msg = (
            "filter must be a tree of m3plugins.indexing.filters (from_dict makes one of a dict) "
            f"or an Elasticsearch query as a dict, got {type(filter).__name__}: {filter!r:.200}"
        )
        raise TypeError(msg)
    part = _Compiler(tokens_field).compile(filter, negated=False, depth=0)
    return Plan(_positive(part), None if part.exact else filter)


@dataclass(frozen=True)
class _Part:
    """What must match, or must not; `exact` if it lets no document through too many."""

    query: Query | None = None
    negative: bool = False
    exact: bool = True
    clauses: int = 0
    size: int = 0


_EVERYTHING = _Part()
_ANYTHING = _Part(exact=False)
_NOTHING = _Part({"match_none": {}}, clauses=1)


@dataclass(frozen=True)
class _Compiler:
    tokens_field: str

    def compile(self, tree: Filter, *, negated: bool, depth: int) -> _Part:
        if isinstance(tree, Not):
            return self.compile(tree.part, negated=not negated, depth=depth)
        if isinstance(tree, Comparison):
            return self._comparison(tree, negated)
        if depth == MAX_DEPTH:
            return _ANYTHING
        every = isinstance(tree, And) != negated
        shared: list[str] = []
        parts: list[_Part] = []
        for part, sign in _flat(tree, negated, every):
            found = tokens(part) if isinstance(part, Comparison) and _is_negative(part, sign) == every else None
            if found is None:
                parts.append(self.compile(part, negated=sign, depth=depth + 1))
            else:
                shared += found  # "none of these and none of those" is one query, and so is "any of these or those"
        parts = [self._has(shared, negated=every), *parts] if shared else parts
        return _all_of(parts) if every else _any_of(parts)

    def _comparison(self, test: Comparison, negated: bool) -> _Part:
        found = tokens(test)
        if found is not None:
            return self._has(found, _is_negative(test, negated))
        if negated and not is_exact(test):
            return _ANYTHING
        queries = [{kind: {self.tokens_field: body}} for kind, body in conditions(test)]
        return _Part(_should(queries), negated, is_exact(test), len(queries))

    def _has(self, found: Iterable[str], negated: bool) -> _Part:
        values = list(dict.fromkeys(found))
        size = sum(map(len, values))
        if not values:
            return _EVERYTHING if negated else _NOTHING
        if size > MAX_SIZE:
            return _ANYTHING
        if len(values) == 1:
            return _Part({"term": {self.tokens_field: values[0]}}, negated, clauses=1, size=size)
        batches = [values[start : start + MAX_TERMS] for start in range(0, len(values), MAX_TERMS)]
        query = _should([{"terms": {self.tokens_field: batch}} for batch in batches])
        return _Part(query, negated, clauses=len(batches), size=size)


def _flat(tree: Filter, negated: bool, every: bool) -> Iterator[tuple[Filter, bool]]:
    """The parts of a conjunction (`every`) or disjunction, through those of the same kind, and their signs."""
    if isinstance(tree, Not):
        yield from _flat(tree.part, not negated, every)
    elif isinstance(tree, And | Or) and (len(tree.parts) == 1 or (isinstance(tree, And) != negated) == every):
        for part in tree.parts:
            yield from _flat(part, negated, every)
    else:
        yield tree, negated


def _is_negative(test: Comparison, negated: bool) -> bool:
    return negated != (test.operator == "ne")


def _all_of(parts: Iterable[_Part]) -> _Part:
    kept: list[_Part] = []
    exact, clauses, size = True, 0, 0
    for part in parts:
        if clauses + part.clauses > MAX_CLAUSES or size + part.size > MAX_SIZE:
            exact = False
            continue
        exact, clauses, size = exact and part.exact, clauses + part.clauses, size + part.size
        kept += [part] if part.query else []
    if len(kept) < 2:
        only = kept[0] if kept else _EVERYTHING
        return _Part(only.query, only.negative, exact, clauses, size)
    sides = {"filter": [p.query for p in kept if not p.negative], "must_not": [p.query for p in kept if p.negative]}
    return _Part({"bool": {name: side for name, side in sides.items() if side}}, False, exact, clauses, size)


def _any_of(parts: list[_Part]) -> _Part:
    if _EVERYTHING in parts:
        return _EVERYTHING
    clauses, size = sum(part.clauses for part in parts), sum(part.size for part in parts)
    if _ANYTHING in parts or clauses > MAX_CLAUSES or size > MAX_SIZE:
        return _ANYTHING
    if len(parts) < 2:
        return parts[0] if parts else _NOTHING
    return _Part(_should([_positive(part) for part in parts]), False, all(p.exact for p in parts), clauses, size)


def _positive(part: _Part) -> Query | None:
    return {"bool": {"must_not": [part.query]}} if part.negative else part.query


def _should(queries: list[Any]) -> Query:
    return queries[0] if len(queries) == 1 else {"bool": {"should": queries, "minimum_should_match": 1}}


def field_names(query: Mapping[str, Any]) -> set[str]:
    """The fields that a query in Elasticsearch's own language names, as far as its kinds of queries are known.

    Example:
        >>> old = {"exists": {"field": "old"}}
        >>> sorted(field_names({"bool": {"must": {"term": {"lang": "en"}}, "must_not": [old]}}))
        ['lang', 'old']
    """
    names: set[str] = set()
    for kind, body in query.items():
        if not isinstance(body, Mapping):
            continue
        if kind in _KEYED:
            options = _GEO_OPTIONS if kind.startswith(("geo", "shape")) else _OPTIONS
            names.update([key for key in body if key not in options] or list(body)[:1])
        if kind in _NAMING:
            names.update(name.partition("^")[0] for name in _listed(body.get(_NAMING[kind])) if isinstance(name, str))
        if kind == "query_string" and isinstance(body.get("query"), str):
            names.update(_lucene_names(body["query"]))
        for inner in _INNER.get(kind, ()):
            names.update(*(field_names(part) for part in _listed(body.get(inner)) if isinstance(part, Mapping)))
    return {name for name in names if "*" not in name}


def _lucene_names(query: str) -> Iterator[str]:
    """The fields that a query in Lucene's syntax names: `lang:en AND _exists_:year`."""
    for field, value in _LUCENE_FIELD.findall(_LUCENE_VALUE.sub("\0", query)):
        yield value if field == "_exists_" else field


def check_fields(query: Mapping[str, Any], known: Collection[str], prefixes: Collection[str]) -> None:
    """Refuses a query about a field that is not there, to which Elasticsearch would answer with no hits.

    Args:
        query: In Elasticsearch's own language.
        known: The index's fields.
        prefixes: Of names that are all allowed, like `metadata.`.

    Raises:
        ValueError: If a field is neither known, nor below a prefix, nor Elasticsearch's own.
    """
    for name in sorted(field_names(query) - set(known) - _SERVER_FIELDS):
        if not name.startswith(tuple(prefixes)):
            likely = [*sorted(known), *(prefix + name.split(".", 1)[-1] for prefix in prefixes)]
            near = difflib.get_close_matches(name, likely, cutoff=0.4)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(sorted(known))}"
            msg = f"a query must name fields of the index, got {name!r}, by which nothing would have been found; {hint}"
            raise ValueError(msg)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
