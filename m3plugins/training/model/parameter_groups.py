"""Parameter groups of an optimizer, with their learning rates."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.model.m3_model import M3Model


def parameter_groups(
    model: M3Model,
    temperatures: Iterable[nn.Parameter],
    args: SelfDistillationArguments,
    decaying: Collection[str],
) -> list[dict[str, Any]]:
    """Groups the parameters of encoder, heads and temperatures by learning rate and weight decay.

    Args:
        model: Model in training.
        temperatures: Logarithms of the temperatures, which do not decay.
        args: Settings with the rates.
        decaying: Names of the model's parameters that decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = args.rate_of(name, model.config.hidden_size)
            decay = args.weight_decay if name in decaying else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if args.learn_temperature:
        groups.setdefault((args.temperature_learning_rate, 0.0), []).extend(temperatures)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
