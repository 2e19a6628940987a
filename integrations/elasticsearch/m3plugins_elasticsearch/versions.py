"""Which versions of the Python client and the cluster go together, and what `m3 doctor` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from elasticsearch import Elasticsearch, __version__, __versionstr__

from m3plugins_elasticsearch.capabilities import Capabilities, probe
from m3plugins_elasticsearch.client import ElasticsearchIndexError, connect

if TYPE_CHECKING:
    from m3plugins.cli.checks import Check

PAIRS = (("8.19", "8.19"), ("8.19", "9.5"), ("9.5", "9.5"))
"""Client and cluster, each pair tested by the whole suite. A client may be older than its cluster, not newer."""


def check_versions(client: Elasticsearch) -> Capabilities:
    """Passes if a client and its cluster go together; the stock vector stores do not ask.

    Returns:
        What the cluster says of itself.

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
    yield Check("elasticsearch client", "ok", f"{__versionstr__}; client with cluster, as tested: {tested}")
    if not uri:
        return
    try:
        connection = connect(uri, token)
        try:
            able = check_versions(connection.client)
        finally:
            connection.close()
    except (ElasticsearchIndexError, ValueError) as err:
        yield Check("elasticsearch cluster", "broken", str(err))
        return
    stated = ".".join(map(str, able.version)) or "of no stated version"
    known = any(
        __version__[0] == int(client.split(".")[0]) and able.version[:1] == (int(cluster.split(".")[0]),)
        for client, cluster in PAIRS
    )
    fix = "" if known or not able.version else f"tested are, client with cluster: {tested}"
    yield Check(
        "elasticsearch cluster",
        "warn" if fix else "ok",
        f"{stated}, {able.health or 'health unknown'}, licence {able.licence or 'unknown'}",
        fix,
    )
