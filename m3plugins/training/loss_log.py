"""Losses for the log: means over all batches since the last log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.processes import sum_of_processes


def loss_names(args: SelfDistillationArguments) -> list[str]:
    """Returns the names of the contrastive losses of a run: every head and, of two or more, their ensemble."""
    return [*args.heads, "ensemble"] if len(args.heads) > 1 else list(args.heads)


def figures(args: SelfDistillationArguments) -> list[str]:
    """Returns the names of the figures that a step may log."""
    losses = [*loss_names(args), *(f"{head}_distillation" for head in args.heads)]
    return [*(f"loss_{loss}" for loss in losses), "truncated"]


class LossLog:
    """Adds up each figure over batches, and counts the batches that had it.

    Every process holds the same names, whatever it has seen, so that the sums of all processes can be added.

    Args:
        names: Names of all figures that a batch may have.
        device: Device of the sums.

    Example:
        >>> log = LossLog(["loss_dense", "truncated"], torch.device("cpu"))
        >>> log.add({"loss_dense": torch.tensor(3.0)})
        >>> log.add({"loss_dense": torch.tensor(1.0)})
        >>> log.totals()
        {'loss_dense': [4.0, 2.0], 'truncated': [0.0, 0.0]}
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names, self._device = tuple(names), device
        self.clear()

    def clear(self) -> None:
        """Forgets all batches."""
        self._totals = {name: torch.zeros(2, device=self._device) for name in self._names}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Adds the figures of one batch, scalars."""
        for name, value in figures.items():
            self._totals[name] += torch.stack([value, torch.ones_like(value)])

    def resume(self, totals: Mapping[str, Sequence[float]]) -> None:
        """Adds the sums and counts that `totals` returned."""
        for name, total in totals.items():
            self._totals[name] += torch.tensor(total, device=self._device)

    def totals(self) -> dict[str, list[float]]:
        """Returns the sum of each figure over the batches of all processes, and their number."""
        table = sum_of_processes(torch.stack(list(self._totals.values())))
        return dict(zip(self._names, table.tolist(), strict=True))
