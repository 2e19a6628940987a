"""A measurement of what half precision would give on this machine."""

from __future__ import annotations

import time

_SHAPE = (512, 384, 1536)
"""A product of m3-mini's feed-forward layer, on 512 tokens."""
_REPEATS = 5


def bfloat16() -> str:
    """Says what `dtype="bfloat16"` would give on the device that "auto" chooses, by a matrix product timed now."""
    import torch

    from m3plugins.encoding.backends.torch import torch_device

    device = torch_device("auto")
    ratio = _seconds(torch.float32, device) / _seconds(torch.bfloat16, device)
    speed = f"matrix products are {ratio:.1f} times as fast as in float32" if ratio > 1.15 else "no speed to win"
    advice = "worth trying" if ratio > 1.15 else "stay with float32"
    return f'dtype="bfloat16" on {device}: half the memory of weights, {speed} (measured now): {advice}'


def _seconds(dtype: object, device: object) -> float:
    """Times a few runs, and returns the fastest."""
    import torch

    rows, inner, columns = _SHAPE
    left = torch.ones(rows, inner, dtype=dtype, device=device)  # type: ignore[call-overload]
    right = torch.ones(inner, columns, dtype=dtype, device=device)  # type: ignore[call-overload]
    taken = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        (left @ right).sum().item()  # a value waits for an accelerator to finish
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
