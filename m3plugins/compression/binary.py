"""One bit a dimension: the sign of the document's vector, scored by a float query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression._shape import check_vectors, token_rows


@dataclass(frozen=True)
class BinaryCodec:
    """The sign of each component; it comes back as +-1/sqrt(dim), a unit vector.

    Only documents are stored, so queries keep their float precision (asymmetric quantisation).

    Example:
        >>> codec = BinaryCodec()
        >>> codec.decode(codec.encode(np.array([[0.9, -0.1, 0.0, -0.4]], np.float32)), dim=4).tolist()
        [[0.5, -0.5, 0.5, -0.5]]
    """

    name: str = "binary"

    def bytes_per_token(self, dim: int) -> int:
        """1 bit a dimension, whole bytes."""
        return -(-dim // 8)

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        """Packs (tokens, dim) float32 into tokens * ceil(dim / 8) bytes."""
        return np.packbits(check_vectors(vectors) >= 0, axis=1).tobytes()

    def decode(self, data: bytes, dim: int) -> NDArray[np.float32]:
        """Unpacks to (tokens, dim) float32, every component +-1/sqrt(dim)."""
        signs = np.unpackbits(token_rows(data, self.bytes_per_token(dim)), axis=1, count=dim)
        return (signs.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(dim))
