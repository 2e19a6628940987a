"""Pauses between attempts, while Elasticsearch is away or an index is not whole."""

from __future__ import annotations

import threading
import time

from elasticsearch import ApiError, TransportError

from m3plugins_elasticsearch.client import ElasticsearchIndexError, is_passing, pauses


class NotReadyError(ElasticsearchIndexError):
    """The index is not whole; it may be in a moment."""


class Backoff:
    """Pauses that grow while nothing succeeds.

    Args:
        seconds: Time after the last success at which to give up; an error that is there to stay ends it at once.
            With infinity it never gives up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._pauses = pauses(time.monotonic() + self._seconds)

    def wait(self, err: Exception, stop: threading.Event) -> None:
        """Waits for a while, or until `stop` is set.

        Raises:
            Exception: The error, if there is no point in waiting.
        """
        pause = next(self._pauses, None) if self._is_passing(err) else None
        if pause is None:
            raise err
        stop.wait(pause)

    def _is_passing(self, err: Exception) -> bool:
        cause = err.__cause__
        known = isinstance(cause, ApiError | TransportError) and is_passing(cause)
        return known or isinstance(err, NotReadyError) or self._seconds == float("inf")
