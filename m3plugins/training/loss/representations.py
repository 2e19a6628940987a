"""Padded outputs of the three heads in training.

In the shapes B counts texts, L and T tokens, H and d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training.data.batch import TokenBatch


@dataclass(frozen=True)
class TokenWeights:
    """Sparse `weights` (B, L) floating, after relu, with `input_ids` (B, L) integer and `mask` (B, L), 1 on tokens."""

    weights: Tensor
    input_ids: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TokenVectors:
    """Multi-vector `vectors` (B, T, d) floating, unit, without CLS, with `mask` (B, T), 1 on tokens."""

    vectors: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Representations:
    """Outputs of a batch of B texts, `dense` (B, H) floating, unit; None is a head that is not trained."""

    dense: Tensor | None = None
    sparse: TokenWeights | None = None
    multi_vector: TokenVectors | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads present."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def floating(self) -> list[Tensor]:
        """The tensors that gradients flow through, in the order of the heads."""
        tensors = (
            self.dense,
            self.sparse.weights if self.sparse else None,
            self.multi_vector.vectors if self.multi_vector else None,
        )
        return [tensor for tensor in tensors if tensor is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> Representations:
        """Returns a copy with each of `floating` changed."""
        sparse, late = self.sparse, self.multi_vector
        return Representations(
            dense=None if self.dense is None else change(self.dense),
            sparse=sparse and TokenWeights(change(sparse.weights), sparse.input_ids, sparse.mask),
            multi_vector=late and TokenVectors(change(late.vectors), late.mask),
        )


def assemble(parts: Sequence[Representations], rows: Sequence[Tensor], texts: TokenBatch) -> Representations:
    """Puts the representations of chunks of a batch in the batch's order, padded to its width; differentiable.

    Args:
        parts: Representations of each chunk.
        rows: Rows of the batch that each chunk holds, (b,) int64; together every row once.
        texts: Batch of B texts, (B, L).
    """
    order = torch.cat(list(rows)).argsort()
    width = texts.mask.shape[1]

    def padded(tensor: Tensor, length: int) -> Tensor:
        missing = length - tensor.shape[1]
        return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing)) if missing else tensor

    dense = [part.dense for part in parts if part.dense is not None]
    weights = [padded(part.sparse.weights, width) for part in parts if part.sparse]
    vectors = [padded(part.multi_vector.vectors, width - 1) for part in parts if part.multi_vector]
    return Representations(
        dense=torch.cat(dense)[order] if dense else None,
        sparse=TokenWeights(torch.cat(weights)[order], texts.input_ids, texts.mask) if weights else None,
        multi_vector=TokenVectors(torch.cat(vectors)[order], texts.mask[:, 1:]) if vectors else None,
    )
