"""Measurement of how many tokens' activations fit in the free memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from m3plugins.training.data.batch import TokenBatch
from m3plugins.training.loss.grad_cache import RandomState
from m3plugins.training.model.m3_model import M3Model

_SHARE = 0.5
"""Share of the free memory; the rest is for representations, the loss and temporary tensors."""
_BYTES_PER_PARAMETER = 12
"""A gradient and the two moments of AdamW, in float32, that the first step has yet to allocate."""
_MOST_TOKENS = 1 << 17


def chunk_tokens(model: M3Model, *, max_length: int, device: torch.device, autocast: torch.dtype | None = None) -> int:
    """Measures how many tokens may be encoded with gradient at a time: a power of two, or one text if that is longer.

    It encodes texts of `max_length` tokens and of half of it: memory that both keep, such as autocast's copies of the
    weights, holds no activations. Rounding makes like machines find the same number.

    Args:
        model: Model on its device, in training mode, gradient checkpointing enabled if it will be.
        max_length: Number of tokens of the longest text.
        device: Device of the model.
        autocast: Precision of mixed-precision training, or None.
    """

    def kept(length: int) -> int:
        ids = torch.zeros((1, length), dtype=torch.long, device=device)
        with _one_layer_kept(model):
            return saved_bytes(model, TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), autocast)

    shorter = max_length // 2
    kept(shorter)  # allocates what stays, such as cuBLAS's workspace
    less, more = kept(shorter), kept(max_length)
    per_token = max(1.0, (more - less) / (max_length - shorter))
    constant = max(0.0, more - per_token * max_length)
    pending = sum(p.numel() for p in model.parameters() if p.requires_grad and p.grad is None) * _BYTES_PER_PARAMETER
    fitting = int((free_bytes(device) - pending - constant) * _SHARE / per_token)
    return max(max_length, min(_MOST_TOKENS, 1 << max(0, fitting.bit_length() - 1) if fitting > 0 else 1))


def saved_bytes(model: M3Model, texts: TokenBatch, autocast: torch.dtype | None = None) -> int:
    """Measures the bytes that a forward pass over texts keeps for its backward pass, the parameters not counted.

    On a GPU it asks the allocator; elsewhere it adds up what autograd is given to keep.
    """
    device = texts.mask.device
    with (
        torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        RandomState(device).restored(),
    ):
        if device.type != "cuda":
            return _given_to_autograd(model, texts)
        before = torch.cuda.memory_allocated(device)
        kept = model([texts])
        found = torch.cuda.memory_allocated(device) - before
        del kept
        return found


def _given_to_autograd(model: M3Model, texts: TokenBatch) -> int:
    storages: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kept = model([texts])
        del kept
    return sum(storages.values())


@contextmanager
def _one_layer_kept(model: nn.Module) -> Iterator[None]:
    """Suspends gradient checkpointing of the last layer: the backward pass holds the activations of one at a time."""
    recomputing = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in recomputing[-1:]:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in recomputing[-1:]:
            module.gradient_checkpointing = True  # type: ignore[assignment]


def free_bytes(device: torch.device) -> int:
    """Returns the bytes that are free on a device: of the accelerator, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
