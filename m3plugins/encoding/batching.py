"""Batches of about as much work each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.tokenizing import TokenizedText


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


def windows(texts: Iterable[TokenizedText], max_tokens: int) -> Iterator[list[TokenizedText]]:
    """Runs of texts of at most `max_tokens` tokens together, one text at least: what is in memory at a time."""
    window: list[TokenizedText] = []
    tokens = 0
    for text in texts:
        if window and tokens + len(text.ids) > max_tokens:
            yield window
            window, tokens = [], 0
        window.append(text)
        tokens += len(text.ids)
    if window:
        yield window
