"""Which passages of a batch are no negatives of a query because of what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from m3plugins.training.batch import Batch


def known_positives(batch: Batch, keys: Tensor) -> Tensor:
    """(Q, P) bool: passages, by their `keys` (P,), that equal a positive of the query."""
    return (keys[None, :, None] == batch.positive_keys[:, None, :]).any(-1)


def repeats(batch: Batch, keys: Tensor, *, in_batch_negatives: bool) -> Tensor:
    """(Q, P) bool: passages that stand in an earlier column already, of those that the query is compared with."""
    columns = torch.arange(len(keys), device=keys.device)
    if in_batch_negatives:
        _, text = torch.unique(keys, return_inverse=True)
        first = torch.full_like(columns, len(keys)).scatter_reduce(0, text, columns, "amin")
        return (columns != first[text]).expand(len(batch.queries), -1)
    queries, group = len(batch.queries), batch.group_size
    own = keys[: queries * group].view(queries, group)
    again = (own[:, :, None] == own[:, None, :]).tril(-1).any(-1)
    return torch.zeros(queries, len(keys), dtype=torch.bool, device=keys.device).scatter(
        1, columns[: queries * group].view(queries, group), again
    )
