"""A proxy in front of a node that does, once or more often, what networks, balancers and busy nodes do."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_PRODUCT = {
    "X-Elastic-Product": "Elasticsearch",
    "Content-Type": "application/vnd.elasticsearch+json;compatible-with=8",
}


@dataclass(frozen=True)
class Fault:
    """What happens to a request.

    Attributes:
        status: Answered by the proxy itself, if it is one.
        body: Of that answer.
        forward: Whether the node is asked; then a client that is cut off does not know that it was done.
        cut: Whether the connection ends without an answer.
        delay: Seconds ahead of the answer.
        change: Makes another answer of the node's.
    """

    status: int = 0
    body: Any = None
    forward: bool = False
    cut: bool = False
    delay: float = 0.0
    change: Callable[[dict[str, Any]], Any] | None = None


def refusal(status: int, kind: str, reason: str) -> Fault:
    """An error as Elasticsearch tells it."""
    error = {"type": kind, "reason": reason}
    return Fault(status, {"error": {"root_cause": [error], **error}, "status": status})


BUSY = refusal(429, "es_rejected_execution_exception", "rejected execution of coordinating operation")
CUT = Fault(cut=True)
UNANSWERED = Fault(cut=True, forward=True)


@dataclass
class Proxy:
    """One.

    Attributes:
        node: Where the node listens.
        url: Where clients find the proxy.
        faults: What the next requests meet, by a part of their path ("/" is of itself alone); None lets one through.
        limit: Bytes of a body above which a request is refused, as a node's http.max_content_length does.
        down: Whether every connection is cut.
        seen: Method, path and body of each request.
        headers: Of each request.
    """

    node: str
    url: str = ""
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    limit: int | None = None
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    down: bool = False

    def expect(self, part: str, *faults: Fault | None) -> None:
        """The next requests to such a path meet these."""
        self.faults[part] = list(faults)

    def bodies(self, part: str) -> list[bytes]:
        """Of the requests to such a path."""
        return [body for _, path, body in self.seen if part in path]

    def _fault(self, path: str, body: bytes) -> Fault | None:
        if self.limit is not None and len(body) > self.limit:
            return Fault(413)
        if self.down:
            return CUT
        for part, faults in self.faults.items():
            if (path == part if part == "/" else part in path) and faults:
                return faults.pop(0)
        return None

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers and the body; a status of 0 for none."""
        self.seen.append((method, path, body))
        self.headers.append(headers)
        fault = self._fault(path.partition("?")[0], body)
        status, sent, answer = 0, dict(_PRODUCT), b""
        if fault is None or fault.forward or fault.change:
            status, sent, answer = self._ask(method, path, headers, body)
        if fault is None:
            return status, sent, answer
        time.sleep(fault.delay)
        if fault.change:
            return status, sent, json.dumps(fault.change(json.loads(answer))).encode()
        if fault.cut:
            return 0, {}, b""
        return (status, sent, answer) if fault.forward else (fault.status, dict(_PRODUCT), _bytes(fault.body))

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        passed = {k: v for k, v in headers.items() if k.lower() not in ("host", "connection", "accept-encoding")}
        connection = http.client.HTTPConnection(urlsplit(self.node).netloc, timeout=60)
        try:
            connection.request(method, path, body=body or None, headers=passed)
            response = connection.getresponse()
            dropped = ("content-length", "transfer-encoding", "connection")
            sent = {k: v for k, v in response.getheaders() if k.lower() not in dropped}
            return response.status, sent, response.read()
        finally:
            connection.close()


def _bytes(body: Any) -> bytes:
    return b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()


@contextmanager
def proxied(node: str) -> Iterator[Proxy]:
    """A proxy in front of this node."""
    proxy = Proxy(node)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                status, headers, answer = proxy.answer(self.command, self.path, dict(self.headers), body)
            except OSError:  # the node is away
                status = 0
            self.close_connection = not status
            if not status:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
