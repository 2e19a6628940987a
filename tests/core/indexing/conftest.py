"""Indexes in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from m3plugins import InMemoryHybridIndex, M3Encoder


@pytest.fixture(scope="module")
def make(encoder: M3Encoder) -> Callable[..., InMemoryHybridIndex]:
    """Makes indexes."""
    return lambda **options: InMemoryHybridIndex(**{"encoder": encoder, **options})
