"""The index that is being enriched, as it is now: its name may lead to another one tomorrow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from elasticsearch import NotFoundError

from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.client import Connection
from m3plugins_elasticsearch.enricher.backoff import NotReadyError
from m3plugins_elasticsearch.enricher.comparing import stamp, stamps
from m3plugins_elasticsearch.enricher.dead_letters import PREFIX, DeadLetters
from m3plugins_elasticsearch.enricher.feed import Feed
from m3plugins_elasticsearch.enricher.leases import Leases
from m3plugins_elasticsearch.enricher.shards import Positions
from m3plugins_elasticsearch.enricher.system_index import add_write_alias
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.lifecycle import stored_identity
from m3plugins_elasticsearch.mapping import WRITE_ALIAS
from m3plugins_elasticsearch.store import Store

_MAX_NAME = 255 - len(WRITE_ALIAS + PREFIX)


@dataclass(frozen=True)
class WatchedIndex:
    """An index that is being enriched, with its feed, its ledgers and its dead letters.

    Attributes:
        index: The attached index.
        uuid: Tells it from other indexes of its name.
        shards: Number of its shards.
        model: The model that its vectors are to be made by, as it is stored with them.
        models: The stamps of the model, now and before the index was brought up to date.
        feed: The feed of its changes.
        leases: The ledgers of its changes.
        dead_letters: The dead letters of its documents.
    """

    index: AttachedIndex
    uuid: str
    shards: int
    model: str
    models: Collection[str]
    feed: Feed
    leases: Leases
    dead_letters: DeadLetters

    @property
    def store(self) -> Store:
        """The documents of the index."""
        return self.index.store

    @property
    def connection(self) -> Connection:
        """The connection to Elasticsearch."""
        return self.store.connection

    @property
    def write_name(self) -> str:
        """The alias that writes go by: it is of this index alone, and ends with it."""
        return WRITE_ALIAS + self.index.name

    def is_at(self, at: Positions) -> bool:
        """Tells whether those are positions of this index."""
        return self.uuid == at.uuid


def open_watched_index(index: AttachedIndex, at: Positions, follow: str, worker: str) -> WatchedIndex:
    """Opens the index of `at`: the one given, or, where that is another one by now, that one in the same way.

    It gets a hidden alias for our writes. A bulk request names its index, not which index of that name it means, and
    in another one, made meanwhile, our fields would be mapped by guesses.

    Args:
        index: The index that was attached to first.
        at: The positions of the index that the name leads to.
        follow: The name that is followed.
        worker: Name of the worker.

    Raises:
        ValueError: If our partial updates would do harm to the documents, or its fields are not there.
    """
    connection = index.store.connection
    if at.index != index.name or not _is_attached(connection, at, index.identity):
        index = _attached(index, at, follow)
    index.verify_model()
    add_write_alias(connection, index.name)
    described = _described(connection, index.name)
    settings = described["settings"]["index"]
    if settings["uuid"] != at.uuid or stored_identity(index.name, described) != index.identity:
        msg = f"the index {index.name!r} was made anew meanwhile"
        raise NotReadyError(msg)
    _check_source(index.name, described)
    leases, letters = Leases(connection, index.name), DeadLetters(connection, index.name, worker)
    leases.system_index.ensure()
    letters.system_index.ensure()
    feed = Feed(index.store)
    model, models = stamp(index.identity), stamps(index.identity)
    return WatchedIndex(index, at.uuid, int(settings["number_of_shards"]), model, models, feed, leases, letters)


def check_name(name: str) -> None:
    """Refuses an index whose ledgers could not have a name.

    Raises:
        ValueError: If it is too long.
    """
    if len(name.encode()) > _MAX_NAME:
        msg = f"the name of an index to enrich must have at most {_MAX_NAME} bytes, got {len(name.encode())}: {name!r}"
        raise ValueError(msg)


def _attached(index: AttachedIndex, at: Positions, follow: str) -> AttachedIndex:
    """Attaches to the index that `follow` leads to, as `index` is.

    Raises:
        NotReadyError: If it is empty, and its fields have yet to come.
        ValueError: If it cannot be attached to.
    """
    connection, identity = index.store.connection, index.identity
    try:
        return AttachedIndex.attach(
            follow,
            encoder=index.encoder,
            fields=identity.fields,
            client=connection.client,
            codec=identity.codec,
            dense_index=identity.dense_index,
            patience=connection.patience,
        )
    except ValueError as err:
        if max(at.checkpoints.values(), default=-1) < 0:
            raise NotReadyError(str(err)) from err
        raise


def _is_attached(connection: Connection, at: Positions, identity: Identity) -> bool:
    described = _described(connection, at.index)
    same = described.get("settings", {}).get("index", {}).get("uuid") == at.uuid
    return same and stored_identity(at.index, described) == identity


def _described(connection: Connection, name: str) -> Mapping[str, Any]:
    """Describes an index, all of one moment; one that is gone has no settings."""

    def ask() -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = connection.client.indices.get(index=name).body
        except NotFoundError:
            return {}
        return dict(found.get(name, {}))

    found = connection.read(f"look for {name!r}", ask)
    return found or {"settings": {"index": {"uuid": ""}}, "mappings": {}}


def _check_source(name: str, described: Mapping[str, Any]) -> None:
    """Refuses an index whose documents do not survive a partial update, anybody's.

    Raises:
        ValueError: If its `_source` is not the whole document.
    """
    source = described["mappings"].get("_source", {})
    mode = described["settings"]["index"].get("mapping", {}).get("source", {}).get("mode", "stored")
    kept = (
        source.get("enabled", True) not in (False, "false") and mode == "stored" and source.get("mode") in (None, mode)
    )
    if not kept or source.get("excludes") or source.get("includes"):
        msg = (
            f"the index {name!r} does not keep its documents' whole _source, and a partial update, such as m3 enrich "
            "makes, would lose the rest; reindex it into one that keeps it"
        )
        raise ValueError(msg)
