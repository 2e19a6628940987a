"""Ranges of sequence numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]
"""The first and the last number, both included."""

MOST = 200
"""Number of ranges that are kept, and that Elasticsearch is asked to leave out."""


def merged(ranges: Iterable[Range], *, above: int = -1, most: int = MOST) -> tuple[Range, ...]:
    """Merges ranges into ascending ones that do not touch.

    Args:
        ranges: Ranges in any order.
        above: Ranges that end here or earlier are dropped.
        most: The longest ones are kept if there are more.

    Example:
        >>> merged([(7, 9), (1, 2), (3, 5), (0, 0)], above=0)
        ((1, 5), (7, 9))
    """
    found: list[Range] = []
    for first, last in sorted(ranges):
        if last <= above:
            continue
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    longest = sorted(found, key=lambda run: run[0] - run[1])[:most]
    return tuple(sorted(longest))


def within(ranges: Sequence[Range], after: int, upto: int) -> list[Range]:
    """Selects the ranges that have a number above `after` and up to `upto`.

    Example:
        >>> within([(1, 5), (7, 9)], 5, 7)
        [(7, 9)]
    """
    return [(first, last) for first, last in ranges if last > after and first <= upto]


def left_out(ranges: Sequence[Range], after: int, upto: int) -> int:
    """Counts the numbers above `after` and up to `upto` that are in none of the (disjoint) ranges.

    Example:
        >>> left_out([(1, 5), (7, 9)], 3, 8)
        1
    """
    if upto <= after:
        return 0
    inside = (min(last, upto) - max(first, after + 1) + 1 for first, last in within(ranges, after, upto))
    return upto - after - sum(inside)
