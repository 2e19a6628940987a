"""The connection: whose client it is, what its errors mean, and how long to go on trying."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
from elasticsearch import (
    ApiError,
    ConnectionTimeout,
    Elasticsearch,
    SerializationError,
    TransportError,
    UnsupportedProductError,
    __version__,
)
from elasticsearch import ConnectionError as CannotConnect
from elasticsearch.serializer import OrjsonSerializer

from m3plugins_elasticsearch.answers import whole

T = TypeVar("T")

CLIENT_VERSION = ".".join(map(str, __version__))
"""Version of the official Python client."""

READ_PATIENCE_S = 5.0
"""How long a read goes on trying: someone waits for it."""

MANAGE_PATIENCE_S = 1.0
"""How long a call about whole indexes does, the first of them to an address that may be wrong."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_BUSY = (429, 502, 503, 504)
_TLS = ("ca_certs", "ssl_assert_fingerprint")
_PORTS = {"http": 9200, "https": 443}
_CLOSED = "pool is closed"
_LASTING = ("certificate", _CLOSED)
_RED = "a shard has no node, see GET /_cluster/health?level=indices"
_FIXES: Mapping[str, str] = {
    "circuit_breaking_exception": "write fewer documents at once, or give the node more memory",
    "cluster_block_exception": "lift that block of the index, and free disk space if it was set for want of it",
    "es_rejected_execution_exception": "write with fewer clients at once, or raise patience",
    "index_closed_exception": "open it with POST /INDEX/_open",
    "index_not_found_exception": "it was dropped or renamed; open or make the one that there is",
    "no_shard_available_action_exception": _RED,
    "search.allow_expensive_queries": (
        "set it to true in the cluster; without, filters are eq, ne, in, exists and what joins them"
    ),
    "search_phase_execution_exception": _RED,
    "security_exception": (
        "grant this user read, write, maintenance, view_index_metadata and, to create, manage on the index and on its "
        "alias m3-write.INDEX; to enrich it, manage, read and write on INDEX and on m3-*.INDEX"
    ),
    "unavailable_shards_exception": _RED,
}
_LICENCE = "license is non-compliant"


class ElasticsearchIndexError(RuntimeError):
    """Elasticsearch refused something, or cannot be reached."""


class _Serializer(OrjsonSerializer):
    """Fast, and not stopped by half a surrogate pair in somebody's document."""

    def json_loads(self, data: bytes) -> Any:
        """The values that a text in JSON stands for."""
        try:
            return super().json_loads(data)
        except orjson.JSONDecodeError:
            return json.loads(data)


@dataclass(frozen=True)
class Connection:
    """A client, and what it is used with.

    Attributes:
        client: The official one, which does not try again by itself.
        patience: Seconds for which a write goes on trying while Elasticsearch is busy or away.
        make: Makes another client like it; None for a user's own, which is not ours to end.
        waits: Seconds for which a read goes on trying.
    """

    client: Elasticsearch
    patience: float
    make: Callable[[], Elasticsearch] | None = field(default=None, repr=False)  # it knows the credentials
    waits: float = READ_PATIENCE_S

    @property
    def place(self) -> str:
        """What tells one cluster from another, as far as the addresses of its nodes do."""
        return " ".join(sorted(node.base_url for node in self.client.transport.node_pool.all()))

    def read(self, doing: str, call: Callable[[], T]) -> T:
        """What the call returns, tried for some seconds.

        Raises:
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached, or answers without some shards.
        """
        with errors(doing):
            return persist(lambda: whole(call()), self.waits)

    def manage(self, doing: str, call: Callable[[], T]) -> T:
        """What a call about whole indexes returns, tried for a moment.

        Raises:
            ElasticsearchIndexError: If Elasticsearch refuses or cannot be reached.
        """
        with errors(doing):
            return persist(call, MANAGE_PATIENCE_S)

    def patient(self) -> Connection:
        """The same, for the reads of a write."""
        return replace(self, waits=self.patience)

    def refresh(self, name: str) -> None:
        """Makes what was written to an index visible to searches, in every copy that there is.

        Raises:
            ElasticsearchIndexError: If it is not, in some.
        """
        self.read(f"refresh {name!r}", lambda: self.client.indices.refresh(index=name))

    def another(self) -> Connection:
        """A connection to the same place, which is closed apart from this one."""
        return self if self.make is None else replace(self, client=self.make())

    def close(self) -> None:
        """Ends the client, if it is ours."""
        if self.make is not None:
            self.client.close()


def connect(
    uri: str | None = None,
    token: str | None = None,
    *,
    client: Elasticsearch | None = None,
    patience: float = 120.0,
    options: Mapping[str, Any] | None = None,
) -> Connection:
    """A connection by a client of ours or of the user's. Nothing is sent yet.

    Args:
        uri: `http(s)://[user:password@]host[:port][/path]`; without a port 9200, for https 443. A certificate that
            the system does not trust is told by `?ca_certs=FILE` or `?ssl_assert_fingerprint=HEX`.
        token: An API key (as `encoded`), or "user:password".
        client: In place of all the others.
        patience: Seconds for which a write goes on trying.
        options: Of `elasticsearch.Elasticsearch`, such as `ca_certs` or `ssl_assert_fingerprint`.

    Raises:
        ValueError: If there is neither a client nor an address, or both, or the address is none.
    """
    if (client is None) == (uri is None):
        msg = "give either uri or client, got " + ("both" if uri else "neither")
        raise ValueError(msg)
    if client is not None:
        if token or options:
            msg = "a client has its own credentials and options; leave out token and client_options"
            raise ValueError(msg)
        return Connection(client.options(max_retries=0), patience)
    host, credentials, tls = _address(uri or "")
    chosen = {
        "serializer": _Serializer(),
        "request_timeout": 60,
        **tls,
        **_authentication(token or credentials),
        **(options or {}),
        "max_retries": 0,  # we try again, with pauses, and for as long as there is patience
    }
    make = partial(Elasticsearch, host, **chosen)
    return Connection(make(), patience, make)


def persist(call: Callable[[], T], patience: float) -> T:
    """Calls again, with growing pauses, while Elasticsearch is busy or away; gives up after `patience` seconds."""
    waiting = pauses(time.monotonic() + patience)
    while True:
        try:
            return call()
        except (ApiError, TransportError) as err:
            pause = next(waiting, None) if is_passing(err) else None
            if pause is None:
                raise
        time.sleep(pause)


def pauses(until: float) -> Iterator[float]:
    """Seconds to wait between attempts, more and more, for as long as they end by then (of `time.monotonic`)."""
    pause = FIRST_PAUSE_S
    while time.monotonic() + pause <= until:
        yield pause * random.uniform(0.5, 1)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def is_passing(err: ApiError | TransportError) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(err, ApiError):
        return err.meta.status in _BUSY
    said = str(err.message).lower()
    return isinstance(err, CannotConnect | ConnectionTimeout) and not any(words in said for words in _LASTING)


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """Tells the client's errors as one of ours, in one line, with the fix where there is one.

    Raises:
        ElasticsearchIndexError: In place of theirs.
    """
    try:
        yield
    except (ApiError, TransportError) as err:
        msg = f"cannot {doing}: {explain(err)}"
        raise ElasticsearchIndexError(msg) from err


def explain(err: ApiError | TransportError) -> str:
    """What went wrong, and what to do."""
    if not isinstance(err, ApiError):
        if isinstance(err, ConnectionTimeout):
            return "Elasticsearch did not answer in time; raise request_timeout in client_options, or try again"
        if _CLOSED in str(err.message).lower():
            return "the client was closed meanwhile; open the index again"
        if isinstance(err, SerializationError):
            return f"the answer is none of Elasticsearch's ({_one_line(err.message)}); check the address and any proxy"
        return f"no connection to Elasticsearch ({_one_line(err.message)}); check the address and that the node is up"
    if isinstance(err, UnsupportedProductError):
        return "what answers there is not Elasticsearch (nor is OpenSearch); check the address"
    status, reason = err.meta.status, _reason(err)
    if status == 401:
        return "Elasticsearch refuses the credentials; pass token (an API key, or user:password)"
    if status == 403 and _LICENCE in reason:
        return f"{reason}; nothing of m3plugins needs that: search through HybridRetriever, which the Basic licence has"
    if is_too_new(err):
        return (
            f"the Python client, elasticsearch {CLIENT_VERSION}, is newer than the cluster, and a client may be older "
            f"than its cluster but not newer: pip install 'elasticsearch<{__version__[0]}'"
        )
    if status == 413:
        return "the request is over the node's http.max_content_length; raise it there"
    return f"{with_fix(reason)} (HTTP {status})"


def is_too_new(err: ApiError) -> bool:
    """Whether the cluster does not know the client's major version. A HEAD request's answer has no body to say it."""
    if err.body:
        return "media_type_header_exception" in str(err.body)
    answered_in = err.meta.headers.get("content-type") or ""
    return err.meta.status == 400 and bool(answered_in) and "compatible-with" not in answered_in


def with_fix(reason: str) -> str:
    """The reason, and what to do about it where that is known."""
    fixes = [fix for kind, fix in _FIXES.items() if kind in reason]
    return "; ".join([reason.rstrip(";"), *fixes[:1]])


def _reason(err: ApiError) -> str:
    """The innermost reason that Elasticsearch names."""
    body = err.body if isinstance(err.body, dict) else {}
    error = body.get("error", body)
    if not isinstance(error, dict):
        return _one_line(str(error or err.message))
    roots = error.get("root_cause") or [error]
    return _one_line(": ".join(str(part) for part in (roots[0].get("type"), roots[0].get("reason")) if part))


def _one_line(text: str, limit: int = 500) -> str:
    return " ".join(text.split())[:limit]


def _address(uri: str) -> tuple[str, str, dict[str, str]]:
    """The address without credentials, these, and what it says of the server's certificate."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
        tls = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        if not host or parts.fragment or tls.keys() - {*_TLS} or (tls and parts.scheme != "https"):
            raise ValueError
    except (ValueError, KeyError):
        msg = (
            "uri must be http(s)://[user:password@]host[:port][/path], for https with ?ca_certs=FILE or "
            "?ssl_assert_fingerprint=HEX if need be, and the one given is not; write special characters of a password "
            "as %XX, or pass the password as token"
        )
        raise ValueError(msg) from None  # half of it may be a password
    host = f"[{host}]" if ":" in host else host
    credentials = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}", credentials, tls


def _authentication(credentials: str) -> dict[str, Any]:
    user, colon, password = credentials.partition(":")
    if colon:
        return {"basic_auth": (user, password)}
    return {"api_key": credentials} if credentials else {}
