"""How many tokens' activations fit in the memory that is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from m3plugins.training.data.batch import TokenBatch
from m3plugins.training.loss.grad_cache import RandomState
from m3plugins.training.model.m3_model import M3Model

_SHARE = 0.5
"""Of the free memory; the rest is for representations, the loss and temporary tensors."""
_BYTES_PER_PARAMETER = 12
"""A gradient and the two moments of AdamW, in float32, that the first step has yet to allocate."""
_MOST_TOKENS = 1 << 17


def chunk_tokens(model: M3Model, *, max_length: int, device: torch.device, autocast: torch.dtype | None = None) -> int:
    """Tokens that may be encoded with gradient at a time: a power of two, or one text if that is longer.

    Measured on texts of `max_length` tokens and of half of it: what both keep, such as the copies of the weights that
    autocast makes, is no activation. Like machines find the same number, whatever little else they have in memory.

    Args:
        model: The model, on its device, in training mode, gradient checkpointing enabled if it will be.
        max_length: Tokens of the longest text.
        device: Where it is.
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
    """Bytes that a forward pass over these texts keeps for its backward pass, the parameters not counted.

    On a GPU the allocator tells; elsewhere it is what autograd is given to keep.
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
    """With gradient checkpointing, the last layer without it: the backward pass holds one layer's at a time."""
    recomputing = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in recomputing[-1:]:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in recomputing[-1:]:
            module.gradient_checkpointing = True  # type: ignore[assignment]


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device: of the accelerator, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def encoder_dropout(model: nn.Module) -> float:
    """The largest dropout probability in a model."""
    return max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0.0)
