"""Ragged storage: rows of different lengths, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ragged_offsets(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row starts, and where the last one ends.

    Example:
        >>> ragged_offsets([2, 1, 3]).tolist()
        [0, 2, 3, 6]
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ragged_take(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the elements of the given rows stand in ragged storage, and the offsets of the rows once taken.

    Example:
        >>> positions, taken = ragged_take(np.array([0, 2, 3, 6]), np.array([2, 0]))
        >>> positions.tolist(), taken.tolist()
        ([3, 4, 5, 0, 1], [0, 3, 5])
    """
    lengths = np.diff(offsets)[rows]
    taken = ragged_offsets(lengths)
    positions = np.arange(taken[-1]) - np.repeat(taken[:-1] - offsets[:-1][rows], lengths)
    return positions, taken
