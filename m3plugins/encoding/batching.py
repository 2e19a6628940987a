"""Batches of about as much work each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def token_budget_batches(lengths: NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Rows sorted by length, longest first, cut into batches whose padded size stays within a budget.

    Args:
        lengths: Tokens per row, shape (n,).
        max_tokens: Rows times the longest row of a batch; a longer row is a batch of its own.

    Returns:
        Row numbers, batch by batch; each row is in exactly one.

    Example:
        >>> [batch.tolist() for batch in token_budget_batches(np.array([2, 9, 3, 3]), max_tokens=9)]
        [[1], [2, 3, 0]]
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def bounded_runs(items: Iterable[T], size_of: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive items whose sizes together stay within a limit, one item at least.

    Example:
        >>> list(bounded_runs(["aa", "b", "cccc", "d"], len, limit=3))
        [['aa', 'b'], ['cccc'], ['d']]
    """
    run: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if run and total + size > limit:
            yield run
            run, total = [], 0
        run.append(item)
        total += size
    if run:
        yield run
