"""Which passages are no candidates, or no negatives of a query, because of what they say."""

from __future__ import annotations

import torch
from torch import Tensor


def repeats(keys: Tensor) -> Tensor:
    """(P,) bool: columns without a text, and those whose text an earlier column has, by their `keys` (P,)."""
    columns = torch.arange(len(keys), device=keys.device)
    _, text = torch.unique(keys, return_inverse=True)
    first = torch.full_like(columns, len(keys)).scatter_reduce(0, text, columns, "amin")
    return (columns != first[text]) | (keys == 0)


def known_positives(query_keys: Tensor, keys: Tensor, asked: Tensor, answers: Tensor) -> Tensor:
    """(Q, P) bool: passages that answer the query, as far as any example of the step says.

    Args:
        query_keys: Of Q queries, (Q,).
        keys: Of P passages, (P,).
        asked: The queries of A examples, (A,).
        answers: All their positives, (A, K).
    """
    texts, column = torch.unique(keys, return_inverse=True)
    queries, row = torch.unique(torch.cat([query_keys, asked]), return_inverse=True)
    own, others = row[: len(query_keys)], row[len(query_keys) :]
    known = torch.zeros(len(queries), len(texts), dtype=torch.bool, device=keys.device)
    nearest = torch.searchsorted(texts, answers).clamp(max=len(texts) - 1)
    example, place = (texts[nearest] == answers).nonzero(as_tuple=True)
    known[others[example], nearest[example, place]] = True
    return known[own][:, column]
