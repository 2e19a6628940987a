"""What an inference backend offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.output import Head
from m3plugins.encoding.tokenizing import TokenizedText


@dataclass(frozen=True, eq=False)
class BatchOutput:
    """One forward pass over b texts of t tokens together; no padding is left.

    Attributes:
        dense: Shape (b, dim), float32, unit rows; None if not asked for.
        token_weights: Sparse weight of every token, >= 0, shape (t,), float32; None if not asked for.
        token_vectors: Unit vectors of every token but the CLS tokens, shape (t - number of these, width),
            float32; None if not asked for.
    """

    dense: NDArray[np.float32] | None
    token_weights: NDArray[np.float32] | None
    token_vectors: NDArray[np.float32] | None


class Backend(Protocol):
    """Runs the model on one device. Used by one thread at a time."""

    batch_tokens: int
    """Padded tokens per forward pass that suit the device."""

    forkable: bool
    """Whether it works in forked processes too, as memory does that all share."""

    dim: int
    multi_vector_dim: int
    vocab_size: int

    def forward(self, batch: Sequence[TokenizedText], heads: Sequence[Head]) -> BatchOutput:
        """The asked heads of a batch of texts."""
