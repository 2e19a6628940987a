"""What holds for every request: a key, a bounded body, an id, a line in the log and a place in the counters."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from m3plugins.serving.metrics import Metrics
from m3plugins.serving.options import ServiceOptions

logger = logging.getLogger("m3plugins.serving")

OPEN = frozenset({"/health", "/ready"})
"""Paths that need no key: what a load balancer asks."""

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Gate:
    """Lets a request in, and tells what became of it; texts and keys are never logged.

    Args:
        app: What answers.
        options: The limits.
        metrics: What counts.
    """

    def __init__(self, app: ASGIApp, options: ServiceOptions, metrics: Metrics) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, began = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            if refusal := self._refusal(scope["path"], headers):
                await refusal(scope, receive, answer)
            else:
                await self._app(scope, _bounded(receive, self._options.max_body_bytes), answer)
        finally:
            seconds, route = time.monotonic() - began, scope.get("route")
            path = getattr(route, "path", "unknown")
            self._metrics.answered(path, status, seconds)
            facts = {"id": request_id, "method": scope["method"], "path": path, "status": status}
            logger.info(json.dumps(facts | {"seconds": round(seconds, 4)}))

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() in ("bearer", "apikey") else headers.get("x-api-key")
        if path not in OPEN and not self._options.is_allowed(key):
            msg = "an API key is needed, in the header Authorization: Bearer KEY; none that is known was given"
            return refused(401, msg, {"www-authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        most = self._options.max_body_bytes
        return refused(413, _too_large(most)) if length.isdecimal() and int(length) > most else None


def refused(status: int, message: str, headers: MutableMapping[str, str] | None = None) -> JSONResponse:
    """Makes the answer to a request that is refused, in the shape that every refusal has."""
    return JSONResponse({"error": {"message": message, "code": status}}, status, headers)


def _too_large(most: int) -> str:
    return f"a body must be of at most {most:,} bytes; send fewer texts in one request"


def _bounded(receive: Receive, most: int) -> Receive:
    """Reads a body up to a size, whatever its headers say."""
    read = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise HTTPException(413, _too_large(most))
        return message

    return bounded
