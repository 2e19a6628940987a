"""The number of documents that a worker claims at a time, by how long the last ones took."""

from __future__ import annotations

_CLAIM_S = 5.0
"""Seconds that a claim is to take: so much is done again if its worker dies, and so long others wait for the end."""

_FIRST, _LEAST = 32, 8


class BatchSize:
    """Adapts the size of claims to the time that they take; the size is `documents`.

    Args:
        most: The largest size.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.documents = min(_FIRST, most)

    def adapt(self, seconds: float) -> None:
        """Adapts to the time that the last claim took."""
        wanted = int(self.documents * _CLAIM_S / max(seconds, 1e-3))
        least = min(_LEAST, self._most)
        self.documents = max(least, min(wanted, 2 * self.documents, self._most))
