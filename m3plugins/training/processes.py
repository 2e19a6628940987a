"""Agreement among the processes of a run; each function returns at once where there is one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def sum_of_processes(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    total = values.clone()
    if _several():
        dist.all_reduce(total)
    return total


def mean_of_processes(values: Tensor) -> Tensor:
    """Mean of a floating tensor over all processes."""
    return sum_of_processes(values) / (dist.get_world_size() if _several() else 1)


def wait_for_all() -> None:
    """Returns when all processes have called it."""
    if _several():
        dist.barrier()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
