"""`AttachedIndex`: a `HybridIndex` on documents that someone else writes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from elasticsearch import Elasticsearch

from m3plugins import HybridIndex, M3Encoder
from m3plugins_elasticsearch import lifecycle
from m3plugins_elasticsearch.capabilities import Capabilities, probe
from m3plugins_elasticsearch.client import Connection, connect
from m3plugins_elasticsearch.field_paths import OURS, FieldPaths
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.mapping import META
from m3plugins_elasticsearch.reader import ElasticsearchReader
from m3plugins_elasticsearch.store import Store


class AttachedIndex(HybridIndex):
    """A `HybridIndex` on an index that someone else made and writes to; get one with `attach`.

    What M3 makes of a document is in an object `m3` of it, which the `Enricher` (`m3 enrich`) keeps in step with the
    text. A document is found by its last enriched text and metadata; one that was not enriched yet is not found,
    `get`, `count` and `scan` have it. Metadata are the document's other fields.

    Documents are written as they were before: `upsert`, `update_metadata`, `delete` and `drop` refuse. Sparse weights
    are kept with 9 significant bits; a search has at most 10,000 candidates.

    Native filters are queries of Elasticsearch's own over the owner's fields.

    Example:
        >>> index = AttachedIndex.attach(
        ...     "articles", encoder=encoder, uri="http://localhost:9200", fields={"text": "body", "title": "headline"}
        ... )  # doctest: +SKIP
    """

    _reopen = "attach it again with AttachedIndex.attach"
    _read_only = "write them as before, and let m3 enrich follow"
    _identity: Identity

    def __init__(self, connection: Connection, name: str, identity: Identity, encoder: M3Encoder) -> None:
        """Use `attach`."""
        self._store = Store(connection, name, identity, FieldPaths.of(identity.fields or {}))
        super().__init__(ElasticsearchReader(self._store), None, encoder=encoder, identity=identity)

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        encoder: M3Encoder,
        fields: Mapping[str, str | Sequence[str]] | None = None,
        uri: str | None = None,
        token: str | None = None,
        client: Elasticsearch | None = None,
        client_options: Mapping[str, Any] | None = None,
        codec: str | None = None,
        dense_index: str | Mapping[str, Any] | None = None,
        patience: float = 120.0,
    ) -> AttachedIndex:
        """Adds our fields to an index's mapping, unless they are there; nothing else of it is touched.

        Args:
            name: Of the index, or an alias of it.
            encoder: Encodes the documents, and the queries.
            fields: `{"text": "body"}`: the path of the text, or several paths, and of the "title", if there is one.
                May be left out where the index was attached to before.
            uri: The address, `http(s)://[user:password@]host[:port]`.
            token: An API key, or "user:password".
            client: A client of your own, in place of `uri`; it stays open.
            client_options: Of `elasticsearch.Elasticsearch`.
            codec: How token vectors are stored, as in `ElasticsearchHybridIndex.create`; by default
                those of the index; "binary" when it is attached for the first time.
            dense_index: As in `ElasticsearchHybridIndex.create`; by default that of the index, "int8_hnsw" when it is
                attached for the first time.
            patience: Seconds for which a write goes on while Elasticsearch is busy or away.

        Raises:
            IndexNotFoundError: If there is no such index.
            ModelMismatchError: If the index holds another model's vectors.
            ValueError: If a field is not there, the cluster is too old, or the options were others before.
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        connection = connect(uri, token, client=client, patience=patience, options=client_options)
        try:
            name, described = lifecycle.find(connection, name)
            stored = lifecycle.stored_identity(name, described)
            if stored is not None and stored.fields is None:
                msg = f"the index {name!r} is one of ours; open it with ElasticsearchHybridIndex.open"
                raise ValueError(msg)
            if fields is None and stored is None:
                msg = 'fields must name the text of an index that is attached to first, as in {"text": "body"}'
                raise ValueError(msg)
            paths = None if fields is None else _paths(fields)
            if paths is not None:
                _check_paths(paths, described["mappings"], name)
            options = {"codec": codec, "dense_index": dense_index, "fields": paths}
            given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
            asked = Identity.asked(encoder, **given)
            if stored is not None:
                stored.check(encoder, name)
                stored.check_options(asked, given, name)
                return cls(connection, name, stored, encoder)
            if fault := probe(connection).fault:
                raise ValueError(fault)
            if OURS in described["mappings"].get("properties", {}):
                msg = (
                    f"the index {name!r} has a field {OURS!r}, where ours belong, and its mapping's _meta does not "
                    f"say that it is ours; rename it or, if the _meta was replaced, put its {META!r} back"
                )
                raise ValueError(msg)
            lifecycle.add_fields(connection, name, described, asked)
            return cls(connection, name, asked, encoder)
        except BaseException:
            connection.close()
            raise

    @property
    def identity(self) -> Identity:
        """What made the stored vectors, and how they are kept."""
        return self._identity

    @property
    def store(self) -> Store:
        """The documents of the index: for the enricher, which keeps step with them."""
        return self._store

    def probe(self) -> Capabilities:
        """Asks the cluster for its health, its version and its licence."""
        self._check_open()
        return probe(self._store.connection)

    def _record(self, identity: Any) -> None:
        lifecycle.record(self._store.connection, self.name, identity)
        super()._record(identity)


def _paths(fields: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """The paths as they are stored.

    Raises:
        ValueError: If it is not text, and perhaps title, that they are of.
    """
    text, title = (fields.get(part, "") for part in ("text", "title")) if isinstance(fields, Mapping) else ("", "")
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else []
    named = isinstance(title, str) and all(isinstance(path, str) and path for path in texts)
    if not texts or not named or fields.keys() - {"text", "title"}:
        msg = f'fields must be {{"text": "body"}}, with a "title" if there is one, got {fields!r}'
        raise ValueError(msg)
    return {"text": texts, "title": title}


def _check_paths(paths: Mapping[str, Any], mappings: Mapping[str, Any], name: str) -> None:
    """Refuses what no document's source has: unknown fields, other names of fields, objects, what is not kept."""
    known, source = list(_leaves(mappings.get("properties", {}))), mappings.get("_source", {})
    for path in (*paths["text"], *([paths["title"]] if paths["title"] else ())):
        if path not in known:
            close = difflib.get_close_matches(path, known) or sorted(known)[:5]
            msg = f"documents of {name!r} have no field {path!r}; name one that they have, such as {', '.join(close)}"
            raise ValueError(msg)
        kept = source.get("enabled", True) and (_covers(source["includes"], path) if "includes" in source else True)
        if not kept or _covers(source.get("excludes", []), path):
            msg = f"the source of documents of {name!r} must hold {path!r}, its mapping's _source leaves it out"
            raise ValueError(msg)


def _leaves(properties: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of fields that hold values of their own."""
    for field, mapping in properties.items():
        if "properties" in mapping:
            yield from _leaves(mapping["properties"], f"{prefix}{field}.")
        elif mapping.get("type", "object") not in ("alias", "object", "nested"):
            yield prefix + field


def _covers(patterns: Sequence[str], path: str) -> bool:
    """Whether a pattern is of the path, or of an object that it is in."""
    parts = path.split(".")
    inside = [".".join(parts[:size]) for size in range(1, len(parts) + 1)]
    return any(fnmatchcase(one, pattern) for one in inside for pattern in patterns)
