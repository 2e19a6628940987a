"""The input of one training step: token ids of queries and passages, and labels of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from m3plugins.encoding.tokenizing import TokenizedText


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of B texts.

    Attributes:
        input_ids: (B, L) int64, special tokens included, padded on the right.
        mask: (B, L) bool, True on tokens.
    """

    input_ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, texts: Sequence[TokenizedText], pad_id: int) -> TokenBatch:
        """Pads tokenised texts, one at least, to the longest."""
        lengths = np.array([len(text.ids) for text in texts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.full(mask.shape, pad_id, np.int64)
        input_ids[mask] = np.concatenate([text.ids for text in texts])
        return cls(torch.from_numpy(input_ids), torch.from_numpy(mask))

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each text, (B,) int64."""
        return self.mask.sum(1)

    def select(self, rows: Tensor) -> TokenBatch:
        """Returns some of the texts, by number, padded to the longest of them."""
        mask = self.mask[rows]
        width = int(mask.sum(1).max())
        return TokenBatch(self.input_ids[rows, :width], mask[:, :width])


@dataclass(frozen=True, eq=False)
class Batch:
    """Q queries and the P different passages that they are compared with.

    Keys stand for texts and are equal for equal ones; 0 stands for none.

    Attributes:
        queries: Q texts.
        passages: P texts, no two alike.
        groups: (Q, G) int64, numbers of a query's own passages: its positive first, then up to G - 1 negatives;
            filled up with -1.
        query_keys: (Q,) int64.
        passage_keys: (P,) int64.
        positive_keys: (Q, K) int64, of all known positives of a query, drawn or not; filled up with 0.
        teacher_scores: (Q, G) float32, an external teacher's scores (higher is better), filled up with -inf; or None.
        own_passages_only: (Q,) bool, True for queries that are compared with their own passages only; None: none is.
        all_own_passages_only: True if every query is, known without waiting for a device.
        truncated: Number of texts that were cut to their maximum length.
    """

    queries: TokenBatch
    passages: TokenBatch
    groups: Tensor
    query_keys: Tensor
    passage_keys: Tensor
    positive_keys: Tensor
    teacher_scores: Tensor | None = None
    own_passages_only: Tensor | None = None
    all_own_passages_only: bool = False
    truncated: int = 0

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; the data loader calls it where a GPU will read."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            queries=TokenBatch(change(self.queries.input_ids), change(self.queries.mask)),
            passages=TokenBatch(change(self.passages.input_ids), change(self.passages.mask)),
            groups=change(self.groups),
            query_keys=change(self.query_keys),
            passage_keys=change(self.passage_keys),
            positive_keys=change(self.positive_keys),
            teacher_scores=None if self.teacher_scores is None else change(self.teacher_scores),
            own_passages_only=None if self.own_passages_only is None else change(self.own_passages_only),
            all_own_passages_only=self.all_own_passages_only,
            truncated=self.truncated,
        )
