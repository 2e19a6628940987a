"""How many tokens' activations fit in the memory that is free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m3plugins.training.batch import TokenBatch
from m3plugins.training.grad_cache import RandomState
from m3plugins.training.model import M3Model

_SHARE = 0.5
"""Of the free memory; the rest is for representations, the loss and temporary tensors."""
_BYTES_PER_PARAMETER = 12
"""A gradient and the two moments of AdamW, in float32, that the first step has yet to allocate."""
_MOST_TOKENS = 1 << 17


def chunk_tokens(model: M3Model, *, max_length: int, device: torch.device, autocast: torch.dtype | None = None) -> int:
    """Tokens that may be encoded with gradient at a time: measured on one text of `max_length` tokens.

    Args:
        model: The model, on its device, in training mode.
        max_length: Tokens of the longest text.
        device: Where it is.
        autocast: Precision of mixed-precision training, or None.
    """
    ids = torch.zeros((1, max_length), dtype=torch.long, device=device)
    per_token = saved_bytes(model, TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), autocast) / max_length
    pending = sum(p.numel() for p in model.parameters() if p.requires_grad and p.grad is None) * _BYTES_PER_PARAMETER
    return int(min(_MOST_TOKENS, max(max_length, (free_bytes(device) - pending) * _SHARE / max(1.0, per_token))))


def saved_bytes(model: M3Model, texts: TokenBatch, autocast: torch.dtype | None = None) -> int:
    """Bytes that a forward pass over these texts keeps for its backward pass, the parameters not counted."""
    storages: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autocast(texts.mask.device.type, dtype=autocast, enabled=autocast is not None),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        RandomState(texts.mask.device).restored(),
    ):
        kept = model([texts])
        del kept
    return sum(storages.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device: of the accelerator, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def encoder_dropout(model: nn.Module) -> float:
    """The largest dropout probability in a model."""
    return max((module.p for module in model.modules() if isinstance(module, nn.Dropout)), default=0.0)
