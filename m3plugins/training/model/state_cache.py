"""A cache of a frozen encoder's token states: from the second epoch on only the heads are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from m3plugins.training.data.batch import TokenBatch


class StateCache:
    """Keeps states by token ids until `max_bytes` are full; later texts are encoded each time.

    Args:
        max_bytes: Maximum number of bytes of the states.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._states: dict[bytes, Tensor] = {}

    def states(self, texts: TokenBatch, encode: Callable[[TokenBatch], Tensor]) -> Tensor:
        """Returns states (B, L, H) of texts, zero on padding; `encode` computes those that are not kept."""
        lengths: list[int] = texts.lengths.tolist()
        ids = texts.input_ids.cpu().numpy()
        keys = [row[:length].tobytes() for row, length in zip(ids, lengths, strict=True)]
        missing = [row for row, key in enumerate(keys) if key not in self._states]
        fresh = {}
        if missing:
            encoded = encode(texts.select(torch.tensor(missing, device=texts.input_ids.device)))
            for row, states in zip(missing, encoded, strict=True):
                fresh[row] = states[: lengths[row]]
                self._keep(keys[row], fresh[row])
        found = [fresh[row] if row in fresh else self._states[key] for row, key in enumerate(keys)]
        padded = torch.nn.utils.rnn.pad_sequence([part.to(texts.mask.device) for part in found], batch_first=True)
        return torch.nn.functional.pad(padded, (0, 0, 0, texts.mask.shape[1] - padded.shape[1]))

    def __deepcopy__(self, memo: object) -> StateCache:
        """Returns the cache itself: a copy of the model has the same frozen encoder."""
        return self

    def _keep(self, key: bytes, states: Tensor) -> None:
        size = states.numel() * states.element_size()
        if size <= self._free and key not in self._states:
            self._states[key] = states.cpu().clone()
            self._free -= size
