"""The interface of rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Reranker(Protocol):
    """Scores texts for a query more exactly, and more slowly, than an index does."""

    def score(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores texts, higher is more relevant, shape (n,), float32; each class says in which range."""
