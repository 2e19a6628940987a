"""The model behind the routes: it takes the texts of a request and gives up when its caller does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request
from starlette.exceptions import HTTPException

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head, M3Output
from m3plugins.encoding.text import check_unicode
from m3plugins.serving.batcher import Batcher, ClosedError, Kind, OverloadedError
from m3plugins.serving.metrics import Metrics
from m3plugins.serving.options import ServiceOptions

_GONE = 499
"""Status of a request whose caller has left, as nginx has it."""


class Service:
    """The model behind the routes.

    Args:
        encoder: Encodes.
        options: The limits.
    """

    def __init__(self, encoder: M3Encoder, options: ServiceOptions) -> None:
        self.encoder = encoder
        self.options = options
        self.batcher = Batcher(encoder, wait_s=options.wait_s, max_queued=options.max_queued)
        self.metrics = Metrics(self.batcher)

    async def encode(self, request: Request, kind: Kind, texts: Sequence[str], heads: Sequence[Head]) -> M3Output:
        """Encodes the texts of a request, unless its caller leaves.

        Raises:
            HTTPException: If there are too few or too many texts, or one is not valid Unicode (422), too many texts
                wait already (429), or the service is ending (503).
        """
        if not 1 <= len(texts) <= self.options.max_texts:
            raise HTTPException(422, f"input must be of 1 to {self.options.max_texts:,} texts, got {len(texts):,}")
        for position, text in enumerate(texts):
            try:
                check_unicode(f"input[{position}]", text)
            except ValueError as err:
                raise HTTPException(422, str(err)) from err
        self.metrics.asked(kind, len(texts))
        try:
            answer = asyncio.wrap_future(self.batcher.submit(kind, texts, heads))
        except OverloadedError as err:
            raise HTTPException(429, str(err), {"retry-after": str(err.retry_after)}) from err
        except ClosedError as err:
            raise HTTPException(503, str(err)) from err
        leaving = asyncio.ensure_future(_left(request))
        both: set[asyncio.Future[Any]] = {answer, leaving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answer.done():
            answer.cancel()
            raise HTTPException(_GONE, "the caller has left")
        return answer.result()


async def _left(request: Request) -> Literal[True]:
    """Returns once the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return True
