"""The order of a ranking, and its ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TIE = 1e-6
"""Scores this close, relative to the higher, are equal: the last bits of a float32 sum depend on where a row stands."""


def ranks(scores: Sequence[float]) -> list[int]:
    """Ranks from 1, highest score first; equal scores (see `TIE`) share the best of their ranks.

    Example:
        >>> ranks([0.1, 0.5, 0.5 + 1e-8])
        [3, 1, 1]
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    found = [0] * len(scores)
    head = 0
    for position, i in enumerate(order):
        best = scores[order[head]]
        if best - scores[i] > TIE * abs(best):
            head = position
        found[i] = head + 1
    return found


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Ids by score, highest first; of equal scores the smaller id comes first.

    Example:
        >>> best_first({"c": 0.5, "b": 0.5 + 1e-8, "a": 0.1})
        ['b', 'c', 'a']
        >>> best_first({"b": 0.5 + 1e-8, "a": 0.5})
        ['a', 'b']
    """
    rank_of = dict(zip(scores, ranks(list(scores.values())), strict=True))
    return sorted(scores, key=lambda i: (rank_of[i], i))
