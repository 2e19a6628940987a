"""Masks of passages that are no candidates, or no negatives of a query, because of their text."""

from __future__ import annotations

import torch
from torch import Tensor


def repeats(keys: Tensor) -> Tensor:
    """Marks columns without a text, and those whose text an earlier column has, by their `keys` (P,): (P,) bool."""
    columns = torch.arange(len(keys), device=keys.device)
    _, text = torch.unique(keys, return_inverse=True)
    first = torch.full_like(columns, len(keys)).scatter_reduce(0, text, columns, "amin")
    return (columns != first[text]) | (keys == 0)


def known_positives(query_keys: Tensor, keys: Tensor, asked: Tensor, answers: Tensor) -> Tensor:
    """Marks the passages that are positives of the query in any example of the step: (Q, P) bool.

    Args:
        query_keys: Keys of Q queries, (Q,).
        keys: Keys of P passages, (P,).
        asked: Keys of the queries of A examples, (A,).
        answers: Keys of all their positives, (A, K).
    """
    texts, column = torch.unique(keys, return_inverse=True)
    queries, row = torch.unique(torch.cat([query_keys, asked]), return_inverse=True)
    own, others = row[: len(query_keys)], row[len(query_keys) :]
    known = torch.zeros(len(queries), len(texts), dtype=torch.bool, device=keys.device)
    nearest = torch.searchsorted(texts, answers).clamp(max=len(texts) - 1)
    example, place = (texts[nearest] == answers).nonzero(as_tuple=True)
    known[others[example], nearest[example, place]] = True
    return known[own][:, column]
