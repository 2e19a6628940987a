"""The order of a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

TIE = 1e-6
"""Scores no further apart are equal: the last bits of a float32 sum depend on where a row stands in a batch."""


def best_first(scores: Mapping[str, float], *, tie: float = TIE) -> list[str]:
    """Ids by score, highest first; of equal scores the smaller id comes first.

    Args:
        scores: By id.
        tie: Scores that are within this of their neighbour in the ranking are equal.

    Example:
        >>> best_first({"c": 0.5, "b": 0.5 + 1e-8, "a": 0.1})
        ['b', 'c', 'a']
        >>> best_first({"b": 0.5 + 1e-8, "a": 0.5})
        ['a', 'b']
    """
    ids = sorted(scores, key=lambda i: -scores[i])
    place = dict.fromkeys(ids[:1], 0)
    for better, worse in pairwise(ids):
        place[worse] = place[better] + (scores[better] - scores[worse] > tie)
    return sorted(ids, key=lambda i: (place[i], i))
