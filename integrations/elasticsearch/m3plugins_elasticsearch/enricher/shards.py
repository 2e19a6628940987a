"""The shards of an index, and how far the changes of each are complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from elasticsearch import NotFoundError

from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins_elasticsearch.client import Connection

_ASKED = ("uuid", "shards.*.routing.primary", "shards.*.seq_no", "shards.*.commit.user_data.history_uuid")


@dataclass(frozen=True)
class Shard:
    """A shard, as its primary sees it.

    Attributes:
        number: Number of the shard, from 0.
        history: Changes when the sequence numbers no longer mean what they did: another index, a restored snapshot.
        checkpoint: Changes up to this one are on every copy, for good.
    """

    number: int
    history: str
    checkpoint: int


@dataclass(frozen=True)
class Positions:
    """The shards of an index at a moment.

    Attributes:
        index: Name of the index, not an alias.
        uuid: Id that this index has, and no later one of its name.
        shards: The shards whose primary is there, by number.
    """

    index: str
    uuid: str
    shards: Mapping[int, Shard]

    @property
    def histories(self) -> dict[int, str]:
        """The histories of the shards, by number."""
        return {number: shard.history for number, shard in self.shards.items()}

    @property
    def checkpoints(self) -> dict[int, int]:
        """The checkpoints of the shards, by number."""
        return {number: shard.checkpoint for number, shard in self.shards.items()}


def positions(connection: Connection, name: str) -> Positions:
    """Reads the positions of an index; `name` may be an alias of it.

    Raises:
        IndexNotFoundError: If there is none.
        ValueError: If the alias is of several.
        ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
    """
    asked = [f"indices.*.{path}" for path in _ASKED]

    def ask() -> dict[str, dict[str, object]]:
        try:
            found = connection.client.indices.stats(index=name, level="shards", metric="docs", filter_path=asked).body
        except NotFoundError:
            found = {}
        return dict(found.get("indices", {}))

    found = connection.read(f"read the positions of {name!r}", ask)
    if len(found) != 1:
        if found:
            msg = f"the alias {name!r} is of {len(found)} indexes, {', '.join(sorted(found))}; enrich each of them"
            raise ValueError(msg)
        msg = f"there is no index {name!r} in Elasticsearch; its owner has to make it"
        raise IndexNotFoundError(msg)
    ((index, told),) = found.items()
    return Positions(index, str(told["uuid"]), _shards(told.get("shards", {})))


def _shards(copies: object) -> dict[int, Shard]:
    assert isinstance(copies, dict)  # JSON of Elasticsearch's
    found = {}
    for number, told in copies.items():
        for copy in told:
            if copy["routing"]["primary"] and "seq_no" in copy and "commit" in copy:
                history = copy["commit"]["user_data"]["history_uuid"]
                found[int(number)] = Shard(int(number), history, copy["seq_no"]["global_checkpoint"])
    return found
