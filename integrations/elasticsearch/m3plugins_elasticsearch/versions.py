"""Which versions of the Python client and the cluster go together, and what `m3 doctor` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from elasticsearch import Elasticsearch, __version__

from m3plugins_elasticsearch.capabilities import Capabilities, probe
from m3plugins_elasticsearch.client import CLIENT_VERSION, ElasticsearchIndexError, connect

if TYPE_CHECKING:
    from m3plugins.cli.checks import Check

PAIRS = (("8.19", "8.19"), ("8.19", "9.5"), ("9.5", "9.5"))
"""Client and cluster, each pair tested by the whole suite. A client may be older than its cluster, not newer."""

_TESTED = {(client.partition(".")[0], cluster) for client, cluster in PAIRS}
"""Major version of the client, whose minor versions speak alike, and version of the cluster."""


def check_versions(client: Elasticsearch) -> Capabilities:
    """Passes if a client and its cluster go together; the stock vector stores do not ask.

    Returns:
        The cluster's version, health and licence.

    Raises:
        ElasticsearchIndexError: If the client is newer than the cluster, the cluster is older than 8.19, or it cannot
            be reached.
    """
    able = probe(connect(client=client))
    if able.fault:
        raise ElasticsearchIndexError(able.fault)
    return able


def checks(uri: str = "", token: str | None = None) -> Iterator[Check]:
    """Lines of `m3 doctor`: the client by itself, and with the cluster at an address."""
    from m3plugins.cli.checks import Check

    tested = ", ".join(f"{client} with {cluster}" for client, cluster in PAIRS)
    yield Check("elasticsearch client", "ok", f"{CLIENT_VERSION} (tested, client with cluster: {tested})")
    if not uri:
        return
    try:
        with closing(connect(uri, token)) as connection:
            able = check_versions(connection.client)
    except (ElasticsearchIndexError, ValueError) as err:
        yield Check("elasticsearch cluster", "broken", str(err))
        return
    version = ".".join(map(str, able.version)) or "of a version that it does not say"
    detail = f"{version}, {able.health or 'health unknown'}, licence {able.licence or 'unknown'}"
    if able.version and (str(__version__[0]), ".".join(map(str, able.version[:2]))) not in _TESTED:
        detail += f"; not tested with client {CLIENT_VERSION}"
        yield Check("elasticsearch cluster", "warn", detail, f"tested are, client with cluster: {tested}")
    else:
        yield Check("elasticsearch cluster", "ok", detail)
