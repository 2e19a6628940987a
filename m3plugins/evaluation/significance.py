"""Intervals for a mean over queries and, of models that were trained, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 5000
_BLOCK = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: Sequence[NDArray[np.float64]], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Averages over collections the means over their seeds and queries, with a percentile bootstrap interval.

    Seeds and queries are drawn anew with replacement, apart from each other (the two-way bootstrap of Owen, "The
    pigeonhole bootstrap", 2007): the same seeds for all collections, since they are the same models, and queries for
    each collection. With one seed only the queries are drawn. Of a few seeds a bootstrap sees too little: the variance
    between n of them comes out (n - 1)/n as large.

    Args:
        values: One array a collection, (seeds, queries): a measure, or the difference of two systems, which pairs
            their seeds and their queries.
        level: Share of the resamples inside the interval.
        seed: Random seed of the resampling.

    Raises:
        ValueError: There is no collection, an array is empty or not of two dimensions, or their seeds differ in number.

    Example:
        >>> bootstrap_interval([np.array([[0.5, 0.5], [0.5, 0.5]])])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    shapes = [np.shape(part) for part in values]
    if not shapes or any(len(shape) != 2 or not all(shape) or shape[0] != shapes[0][0] for shape in shapes):
        msg = f"values must be arrays (seeds, queries) of as many seeds, one a collection, got shapes {shapes}"
        raise ValueError(msg)
    random = np.random.default_rng(seed)
    of_seeds, means = _shares(random, shapes[0][0], _RESAMPLES), np.zeros(_RESAMPLES)
    for part in values:
        queries = part.shape[1]
        rows = max(1, _BLOCK // queries)  # at a time, so that memory does not grow with the queries
        for start in range(0, _RESAMPLES, rows):
            block = of_seeds[start : start + rows]
            means[start : start + rows] += ((block @ part) * _shares(random, queries, len(block))).sum(1)
    low, high = np.quantile(means / len(values), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([part.mean() for part in values])), float(low), float(high))


def _shares(random: np.random.Generator, count: int, resamples: int) -> NDArray[np.float64]:
    """Draws the share of every resample that each of `count` items has, (resamples, count)."""
    return random.multinomial(count, np.full(count, 1 / count), size=resamples) / count
