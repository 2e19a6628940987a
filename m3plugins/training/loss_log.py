"""The figures of a step that are logged: means over all batches since the last log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.processes import sum_of_processes


def loss_names(args: SelfDistillationArguments) -> list[str]:
    """The contrastive losses of a run: of every head and, of two or more, of their ensemble."""
    return [*args.heads, "ensemble"] if len(args.heads) > 1 else list(args.heads)


def figures(args: SelfDistillationArguments) -> list[str]:
    """What a step may log."""
    losses = [*loss_names(args), *(f"{head}_distillation" for head in args.heads)]
    return [*(f"loss_{loss}" for loss in losses), "truncated"]


class LossLog:
    """Of each figure its sum and how many batches had it.

    Every process holds the same names, whatever it has seen, so that they can be added up.

    Args:
        names: All figures that a batch may have.
        device: Where they are computed.

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
        """One batch's figures, scalars."""
        for name, value in figures.items():
            self._totals[name] += torch.stack([value, torch.ones_like(value)])

    def resume(self, totals: Mapping[str, Sequence[float]]) -> None:
        """Adds what `totals` gave."""
        for name, total in totals.items():
            self._totals[name] += torch.tensor(total, device=self._device)

    def totals(self) -> dict[str, list[float]]:
        """Of each figure its sum over the batches of all processes, and their number."""
        table = sum_of_processes(torch.stack(list(self._totals.values())))
        return dict(zip(self._names, table.tolist(), strict=True))
