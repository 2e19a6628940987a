"""Hidden indexes that the enricher keeps for itself, and that somebody may delete at any time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elasticsearch import BadRequestError, ConflictError, NotFoundError

from m3plugins_elasticsearch.client import Connection, errors, persist
from m3plugins_elasticsearch.enricher.backoff import NotReadyError
from m3plugins_elasticsearch.mapping import WRITE_ALIAS

_ONE_SHARD = {"number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": True}
_ALREADY = "resource_already_exists_exception"


class SystemIndexDeletedError(NotReadyError):
    """Somebody deleted a system index; it can be made anew."""


class SystemIndex:
    """A hidden index, written by the alias that it is made with: no write can make it anew, with a guessed mapping.

    Args:
        connection: The connection to Elasticsearch.
        name: Name of the index.
        properties: Mapping of the fields to search.
    """

    def __init__(self, connection: Connection, name: str, properties: Mapping[str, Any]) -> None:
        self.name = name
        self.alias = WRITE_ALIAS + name
        self._connection = connection
        self._mappings = {"dynamic": False, "properties": dict(properties)}

    def ensure(self) -> None:
        """Makes the index, unless it is there."""
        connection, indices = self._connection, self._connection.client.indices

        def make() -> None:
            try:
                indices.create(
                    index=self.name,
                    mappings=self._mappings,
                    settings=dict(_ONE_SHARD),
                    aliases={self.alias: {"is_hidden": True}},
                )
            except BadRequestError as err:
                if err.error != _ALREADY:
                    raise

        with errors(f"make {self.name!r}"):
            if not persist(lambda: indices.exists_alias(index=self.name, name=self.alias), connection.patience):
                persist(make, connection.patience)
                add_write_alias(connection, self.name)  # that of a restored snapshot may be without

    def write(self, id: str, document: Mapping[str, Any], **condition: Any) -> bool:
        """Stores a document; returns whether the condition held.

        Raises:
            SystemIndexDeletedError: If the index is not there any more.
            ElasticsearchIndexError: If Elasticsearch refuses or stays away.
        """
        write = self._connection.client.index
        with errors(f"write to {self.name!r}"):
            try:
                persist(
                    lambda: write(index=self.alias, id=id, document=document, require_alias=True, **condition),
                    self._connection.patience,
                )
            except ConflictError:
                return False
            except NotFoundError as err:
                raise self.gone() from err
        return True

    def gone(self) -> SystemIndexDeletedError:
        """Returns the error to raise where the index is not there."""
        return SystemIndexDeletedError(f"the index {self.name!r} was deleted meanwhile; it is made anew")


def add_write_alias(connection: Connection, name: str) -> None:
    """Gives an index the hidden alias that it is written by."""
    write = {"index": name, "alias": WRITE_ALIAS + name, "is_hidden": True}
    with errors(f"add an alias for writing to {name!r}"):
        persist(lambda: connection.client.indices.update_aliases(actions=[{"add": write}]), connection.patience)
