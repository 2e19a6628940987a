"""The queries and passages of the tests of scores and losses."""

from __future__ import annotations

import pytest

from m3plugins.training import Representations
from tests.core.training.loss.sides import representations


@pytest.fixture
def queries() -> Representations:
    return representations([4, 6, 5], seed=1)


@pytest.fixture
def passages() -> Representations:
    return representations([7, 9, 6, 8, 9, 5], seed=2)
