"""What the other side is, asked once; nothing is inferred from a request that happened to succeed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elasticsearch import ApiError, UnsupportedProductError

from m3plugins_elasticsearch.client import MANAGE_PATIENCE_S, Connection, errors, is_too_new, persist

MINIMUM = (8, 19)
"""The first with `rescore_vector` and with unpruned sparse vectors."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a cluster is and can do; `probe` makes one.

    Attributes:
        health: "green", "yellow" or "red"; None where the cluster does not say.
        version: As far as it is stated; () where it is not.
        licence: "basic", "trial", "enterprise", ...; None where it is not stated.
    """

    health: str | None
    version: tuple[int, ...]
    licence: str | None

    @property
    def fault(self) -> str | None:
        """Says why our indexes cannot be there; None if they can, as far as is known."""
        if not self.version or self.version >= MINIMUM:
            return None
        return (
            f"Elasticsearch must be {'.'.join(map(str, MINIMUM))} or later, to compare whole vectors and unpruned "
            f"sparse ones, got {'.'.join(map(str, self.version))}; upgrade the cluster"
        )


def probe(connection: Connection) -> Capabilities:
    """Asks for health, version and licence; whatever a node does not answer is unknown.

    Raises:
        ElasticsearchIndexError: If it cannot be reached or refuses the credentials.
    """
    client = connection.client
    with errors("ask Elasticsearch what it is"):
        health = _asked(client.cluster.health)
        about = _asked(client.info) or _asked(lambda: client.nodes.info(metric="http", filter_path="nodes.*.version"))
        licence = _asked(client.license.get)
    return Capabilities(
        health=health.get("status"),
        version=_version(about),
        licence=licence.get("license", {}).get("type"),
    )


def _asked(call: Callable[[], Any]) -> dict[str, Any]:
    """The answer; empty where this cluster, or this user, has none (a serverless project has no health)."""
    try:
        return dict(persist(call, MANAGE_PATIENCE_S).body)
    except ApiError as err:
        refused = err.meta.status in (401, 429) or err.meta.status >= 500
        if refused or isinstance(err, UnsupportedProductError) or is_too_new(err):
            raise
        return {}


def _version(about: dict[str, Any]) -> tuple[int, ...]:
    """Version of `GET /`, or the lowest of all nodes; what a serverless project states means nothing (eland#696)."""
    build = about.get("version", {})
    if build.get("build_flavor") == "serverless":
        return ()
    stated = [build.get("number")] + [node.get("version") for node in about.get("nodes", {}).values()]
    found = [re.match(r"\d+(\.\d+)*", text) for text in stated if text]
    return min((tuple(map(int, match[0].split("."))) for match in found if match), default=())
