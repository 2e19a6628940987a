"""A token embedding that is looked up once a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedEmbedding(nn.Embedding):
    """An embedding whose lookups within `shared` are one lookup of the distinct ids.

    The gradient of a lookup is as large as the table (1 GiB in BGE-M3), however few tokens were looked up. Chunks of
    a batch that share their lookup make it once.
    """

    _found: tuple[Tensor, Tensor] | None = None

    @classmethod
    def replace(cls, embedding: nn.Embedding) -> SharedEmbedding:
        """Makes an embedding with the weights of another."""
        table, width = embedding.weight.shape
        return cls(table, width, padding_idx=embedding.padding_idx, _weight=embedding.weight.data)

    @contextmanager
    def shared(self, ids: Sequence[Tensor]) -> Iterator[None]:
        """Makes lookups of these ids, or of some of them, inside the block one."""
        self._found = self._lookup(ids)
        try:
            yield
        finally:
            self._found = None

    @contextmanager
    def shared_by_passes(self, ids: Sequence[Tensor]) -> Iterator[None]:
        """Does as `shared` for several backward passes inside the block; the table gets its gradient at the end."""
        if not self.weight.requires_grad:
            yield
            return
        distinct, rows = self._lookup(ids)
        leaf = rows.detach().requires_grad_()
        self._found = distinct, leaf
        try:
            yield
        finally:
            self._found = None
        if leaf.grad is not None:
            rows.backward(leaf.grad)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """Returns the vectors of token ids."""
        if self._found is None:
            return super().forward(input)
        distinct, rows = self._found
        return F.embedding(torch.searchsorted(distinct, input), rows)

    def _lookup(self, ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        distinct = torch.unique(torch.cat([some.flatten() for some in ids]))
        return distinct, super().forward(distinct)
