"""Lifecycle of an index: how it is made, found again, given another name and dropped."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from elasticsearch import BadRequestError, NotFoundError

from m3plugins.indexing.errors import IndexExistsError, IndexNotFoundError
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.named_index import check_no_alias
from m3plugins_elasticsearch.client import Connection, errors, explain
from m3plugins_elasticsearch.field_paths import OURS
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.mapping import (
    META,
    WRITE_ALIAS,
    check_name,
    missing_defaults,
    our_properties,
    own_mapping,
    own_settings,
)

_SERVERS = ("uuid", "version", "creation_date", "provided_name", "blocks", "routing", "resize", "history")
"""Settings that Elasticsearch makes, and those of a moment."""

_EXISTS = ("resource_already_exists_exception", "invalid_index_name_exception")


def create(connection: Connection, name: str, identity: Identity, settings: Mapping[str, Any] | None) -> None:
    """Makes an index and its alias for writing, in one step.

    Our own settings are left out where the server says that it does not know them: a user with rights to a single
    index may not query the cluster's version.

    Raises:
        IndexExistsError: If there is an index or an alias of that name.
        ValueError: If Elasticsearch takes an option for wrong.
    """
    mappings, settings = own_mapping(identity), own_settings(identity, settings)
    aliases = {WRITE_ALIAS + name: {"is_hidden": True}}

    def make(ours: Mapping[str, Any]) -> None:
        try:  # once: that it is there would not say whose it is
            connection.client.indices.create(
                index=name, mappings=mappings, settings={**settings, **ours}, aliases=aliases
            )
            return
        except BadRequestError as err:
            known = {
                setting: value for setting, value in ours.items() if f"unknown setting [{setting}]" not in str(err.body)
            }
            if known == ours:
                raise
        make(known)

    with errors(f"create {check_name(name)!r}"):
        try:
            make(missing_defaults(settings))
        except BadRequestError as err:
            if err.error in _EXISTS:
                msg = f"there is an index {name!r} already; open it with ElasticsearchHybridIndex.open, or drop it"
                raise IndexExistsError(msg) from err
            msg = f"cannot create {name!r}: {explain(err)}; change that option"
            raise ValueError(msg) from err


def find(connection: Connection, name: str) -> tuple[str, dict[str, Any]]:
    """The true name of an index (`name` may be an alias), and its description.

    Raises:
        IndexNotFoundError: If there is none.
        ValueError: If the alias is of several.
    """

    def ask() -> dict[str, Any]:
        try:
            return dict(connection.client.indices.get(index=name).body)
        except NotFoundError:
            return {}

    found = connection.manage(f"look for {check_name(name)!r}", ask)
    if not found:
        msg = f"there is no index {name!r} in Elasticsearch; make it with ElasticsearchHybridIndex.create or m3 index"
        raise IndexNotFoundError(msg)
    if len(found) > 1:
        msg = f"the alias {name!r} is of {len(found)} indexes, {', '.join(sorted(found))}; open one of them"
        raise ValueError(msg)
    ((name, described),) = found.items()
    if "data_stream" in described:
        msg = (
            f"{name!r} belongs to the data stream {described['data_stream']!r}, whose indexes roll over; name an index"
        )
        raise ValueError(msg)
    return name, described


def stored_identity(name: str, described: Mapping[str, Any]) -> Identity | None:
    """What the mapping says of the vectors; None if they are not ours."""
    stored = described["mappings"].get("_meta", {}).get(META)
    return None if stored is None else Identity.from_dict(stored, name)


def own(connection: Connection, name: str) -> tuple[str, Identity]:
    """The true name of an index of ours (`name` may be an alias), and what made it.

    Raises:
        IndexNotFoundError: If there is none.
        ValueError: If it is not of ours.
    """
    name, described = find(connection, name)
    identity = stored_identity(name, described)
    if identity is None or identity.fields is not None:
        msg = (
            f"the index {name!r} was not made by ElasticsearchHybridIndex.create; use AttachedIndex.attach, or "
            "choose another name"
        )
        raise ValueError(msg)
    return name, identity


def names(connection: Connection) -> list[str]:
    """The names of the indexes of ours."""
    ask = connection.client.indices.get_mapping
    found = connection.manage("list the indexes", lambda: ask(filter_path=f"*.mappings._meta.{META}.fields")).body
    return sorted(name for name, index in found.items() if index["mappings"]["_meta"][META]["fields"] is None)


def describe(connection: Connection, name: str, identity: Identity) -> IndexInfo:
    """What an index is, and what searches of it see."""
    client = connection.client

    def count(query: dict[str, Any] | None = None) -> int:
        found = connection.read(f"count in {name!r}", lambda: client.count(index=name, query=query))
        return int(found["count"])

    return IndexInfo.of(
        identity,
        name=name,
        engine="elasticsearch",
        aliases=tuple(aliases(connection, name)),
        stored=count(),
        first_passages=0 if identity.cut is None else count({"wildcard": {"id": "*#0"}}),
        format=identity.format,
    )


def drop_named(connection: Connection, name: str) -> None:
    """Deletes an index of ours.

    Raises:
        IndexNotFoundError: If there is none.
        ValueError: If an alias points at it, or it is not of ours.
    """
    name, _ = own(connection, name)
    check_no_alias(name, aliases(connection, name))
    drop(connection, name)


def add_fields(connection: Connection, name: str, described: Mapping[str, Any], identity: Identity) -> None:
    """Adds our fields to someone else's index, and to what its mapping says of itself."""
    theirs = described["mappings"].get("_meta", {})  # is replaced as a whole
    ours = {"type": "object", "dynamic": "strict", "properties": our_properties(identity)}
    meta, put = {**theirs, META: identity.to_dict()}, connection.client.indices.put_mapping
    connection.manage(f"add fields to {name!r}", lambda: put(index=name, properties={OURS: ours}, meta=meta))


def record(connection: Connection, name: str, identity: Identity) -> None:
    """Stores what made an index anew; what its owner keeps beside it stays."""
    indices = connection.client.indices

    def put() -> None:
        theirs = indices.get_mapping(index=name)[name]["mappings"].get("_meta", {})  # is replaced as a whole
        indices.put_mapping(index=name, meta={**theirs, META: identity.to_dict()})

    connection.manage(f"record the model of {name!r}", put)


def swap(connection: Connection, name: str, alias: str) -> list[str]:
    """Points an alias at an index, in one step; returns the indexes that it pointed at.

    Raises:
        ValueError: If `alias` is the name of an index.
    """
    check_name(alias)
    doing, indices = f"point the alias {alias!r} at {name!r}", connection.client.indices

    def ask() -> list[str]:
        if indices.exists(index=alias) and not indices.exists_alias(name=alias):
            msg = f"{alias!r} is an index, so it cannot be an alias; choose another, or drop the index"
            raise ValueError(msg)
        return sorted(indices.get_alias(name=alias).body) if indices.exists_alias(name=alias) else []

    before = connection.manage(doing, ask)
    leave = [{"remove": {"index": other, "alias": alias}} for other in before if other != name]
    actions = [*leave, {"add": {"index": name, "alias": alias}}]
    connection.manage(doing, lambda: indices.update_aliases(actions=actions))
    return before


def aliases(connection: Connection, name: str) -> list[str]:
    """The aliases of an index that users gave it."""
    ask = connection.client.indices.get_alias
    found = connection.manage(f"list the aliases of {name!r}", lambda: ask(index=name)).body
    return sorted(alias for alias in found[name]["aliases"] if not alias.startswith(WRITE_ALIAS))


def user_settings(connection: Connection, name: str) -> dict[str, Any]:
    """The settings of an index that another one like it needs."""
    ask = connection.client.indices.get_settings
    found = connection.manage(f"read the settings of {name!r}", lambda: ask(index=name)).body
    settings = found[name]["settings"]["index"]
    return {key: value for key, value in settings.items() if key not in _SERVERS}


def drop(connection: Connection, name: str) -> None:
    """Deletes an index."""
    attempts = count(1)

    def delete() -> None:
        attempt = next(attempts)
        try:
            connection.client.indices.delete(index=name)
        except NotFoundError:
            if attempt == 1:  # else it was done, and nobody heard of it
                raise

    connection.manage(f"drop {name!r}", delete)


def searchable_fields(connection: Connection, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """The paths of an index's fields, and of those below which any path is one."""
    ask = connection.client.indices.get_mapping
    mappings = connection.manage(f"read the mapping of {name!r}", lambda: ask(index=name)).body[name]["mappings"]
    known: set[str] = set()
    open_ended: set[str] = set()

    def visit(properties: Mapping[str, Any], prefix: str) -> None:
        for field, mapping in properties.items():
            path = prefix + field
            known.add(path)
            if mapping.get("type") == "flattened":
                open_ended.add(f"{path}.")
            visit({**mapping.get("properties", {}), **mapping.get("fields", {})}, f"{path}.")

    visit({**mappings.get("properties", {}), **mappings.get("runtime", {})}, "")
    return frozenset(known), frozenset(open_ended)
