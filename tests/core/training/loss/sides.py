"""Random representations of queries and passages, for the tests of scores and losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m3plugins.training import LossOptions, Representations, TokenVectors, TokenWeights

CLS, PAD, EOS, UNK = 0, 1, 2, 3
VOCABULARY = 250_002
OPTIONS = LossOptions(special_ids=(CLS, PAD, EOS, UNK))


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns, in the backward pass too."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor):
                self.numel = max(self.numel, item.numel())
        return result


def token_mask(lengths: list[int], width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def representations(
    lengths: list[int], *, seed: int, dim: int = 8, dtype: torch.dtype = torch.float64
) -> Representations:
    """Random leaves for texts of these token counts (CLS and EOS included), right-padded, ids from a pool of 12."""
    generator = torch.Generator().manual_seed(seed)
    shape, width = (len(lengths), max(lengths)), max(lengths)
    mask = token_mask(lengths, width)
    ids = torch.randint(VOCABULARY - 12, VOCABULARY, shape, generator=generator) * mask + PAD * ~mask
    ids[:, 0] = CLS
    for row, length in enumerate(lengths):
        if length:
            ids[row, length - 1] = EOS
    dense = F.normalize(torch.randn(len(lengths), dim, generator=generator, dtype=dtype), dim=-1)
    vectors = F.normalize(torch.randn(len(lengths), width - 1, dim, generator=generator, dtype=dtype), dim=-1)
    weights = torch.rand(shape, generator=generator, dtype=dtype) + 0.1
    return Representations(
        dense=dense.requires_grad_(),
        sparse=TokenWeights(weights.requires_grad_(), ids, mask),
        multi_vector=TokenVectors(vectors.requires_grad_(), mask[:, 1:]),
    )


def leaves(*sides: Representations) -> list[Tensor]:
    found = []
    for side in sides:
        found += [side.dense] if side.dense is not None else []
        found += [side.sparse.weights] if side.sparse is not None else []
        found += [side.multi_vector.vectors] if side.multi_vector is not None else []
    return found
