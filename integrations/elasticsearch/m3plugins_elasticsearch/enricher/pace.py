"""How much to take at a time, and how long to wait."""

from __future__ import annotations

import threading
import time

from elasticsearch import ApiError, TransportError

from m3plugins_elasticsearch.client import ElasticsearchIndexError, is_passing, pauses

_CLAIM_S = 5.0
"""Seconds that a claim is to take: so much is done again if its worker dies, and so long others wait for the end."""

_FIRST, _LEAST = 32, 8


class NotReadyError(ElasticsearchIndexError):
    """The index is not whole at the moment; it may be in a moment."""


class Pace:
    """How many documents to claim.

    Args:
        most: An upper limit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.documents = min(_FIRST, most)

    def took(self, seconds: float) -> None:
        """The last claim took so long."""
        wanted = int(self.documents * _CLAIM_S / max(seconds, 1e-3))
        least = min(_LEAST, self._most)
        self.documents = max(least, min(wanted, 2 * self.documents, self._most))


class Patience:
    """Pauses that grow while nothing succeeds.

    Args:
        seconds: When to give up: so long after the last success, or at the first error that is there to stay.
            Infinity never does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Something succeeded."""
        self._pauses = pauses(time.monotonic() + self._seconds)

    def wait(self, err: Exception, stop: threading.Event) -> None:
        """Waits a while, or until it is to stop.

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
