"""Exchange of passages among processes, so that each process' are negatives of every query."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training.loss.representations import Representations, TokenVectors, TokenWeights


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows of all processes, this one's first, the others in the order of their ranks.

    The first two dimensions may differ between processes; they are padded with zeros to the largest. Differentiable: a
    process gets back the sum of the gradients that all processes have for its rows. With losses that are means over a
    process' own queries and DDP's mean over processes, this is the gradient of the mean over all queries.
    """
    sizes = torch.tensor(rows.shape[:2], device=rows.device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    missing = [largest - size for largest, size in zip(sizes.tolist(), rows.shape, strict=False)]
    rows = F.pad(rows, (0, 0) * (rows.dim() - len(missing)) + tuple(n for size in missing[::-1] for n in (0, size)))
    return cast(Tensor, _Gather.apply(rows))  # type: ignore[no-untyped-call]


def gather_representations(local: Representations) -> Representations:
    """Returns the representations of all processes' texts, this one's first; see `gather_rows`."""
    sparse, late = local.sparse, local.multi_vector
    return Representations(
        dense=None if local.dense is None else gather_rows(local.dense),
        sparse=sparse
        and TokenWeights(gather_rows(sparse.weights), gather_rows(sparse.input_ids), gather_rows(sparse.mask)),
        multi_vector=late and TokenVectors(gather_rows(late.vectors), gather_rows(late.mask)),
    )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sent = rows.contiguous().to(torch.uint8) if rows.dtype == torch.bool else rows.contiguous()
        parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, sent)
        own = parts.pop(dist.get_rank())
        return torch.cat([own, *parts]).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # From "own first" to the order of the ranks, which is the same everywhere.
        own, *others = grads[0].contiguous().chunk(dist.get_world_size())
        others.insert(dist.get_rank(), own)
        summed = torch.cat(others)
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]
