"""8-bit integers with one scale per token: dim + 2 bytes a token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression._shape import check_stored, check_vectors, token_rows
from m3plugins.scoring.products import dot_products

_SCALE_BYTES = 2


@dataclass(frozen=True)
class Int8Codec:
    """`round(vector / scale)` in [-127, 127], with scale = max |vector| / 127 kept as float16 ahead of it.

    The stored (rounded) scale is the one that quantises, so the error of a component is at most half
    a step, scale / 2, wherever the scale is a normal float16.

    Example:
        >>> codec = Int8Codec()
        >>> codec.decode(codec.encode(np.array([[0.6, -0.8]], np.float32)), dim=2).round(2).tolist()
        [[0.6000000238418579, -0.800000011920929]]
    """

    name: str = "int8"

    def bytes_per_token(self, dim: int) -> int:
        """1 byte a dimension and 2 for the scale."""
        return dim + _SCALE_BYTES

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        """Packs (tokens, dim) float32 into tokens * (dim + 2) bytes."""
        vectors = check_vectors(vectors)
        scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype("<f2")
        steps = np.where(scales > 0, scales, 1).astype(np.float32)
        levels = np.rint(vectors / steps[:, None]).clip(-127, 127).astype(np.int8)
        return np.concatenate([scales[:, None].view(np.uint8), levels.view(np.uint8)], axis=1).tobytes()

    def decode(self, data: bytes, dim: int) -> NDArray[np.float32]:
        """Unpacks to (tokens, dim) float32."""
        levels, scales = self._parts(data, dim)
        return levels.astype(np.float32) * scales

    def products(self, data: bytes, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """`decode(data, dim) @ queries.T`, without decoding: (tokens, query tokens) float32."""
        levels, scales = self._parts(data, queries.shape[1])
        return dot_products(levels, queries) * scales

    def _parts(self, data: bytes, dim: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """The levels, (tokens, dim), and the scales, (tokens, 1)."""
        rows = token_rows(data, self.bytes_per_token(dim))
        scales = check_stored(rows[:, :_SCALE_BYTES].copy().view("<f2").astype(np.float32))
        return rows[:, _SCALE_BYTES:].view(np.int8), scales
