"""A codec of one bit a dimension: the sign of the document's vector, scored by a float query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression._shape import check_vectors, token_rows
from m3plugins.scoring.products import dot_products


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
        return (self._bits(data, dim).astype(np.float32) * 2 - 1) / np.float32(np.sqrt(dim))

    def products(self, data: bytes, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """`decode(data, dim) @ queries.T`, without decoding: (tokens, query tokens) float32."""
        dim = queries.shape[1]
        positive = dot_products(self._bits(data, dim), queries)
        products: NDArray[np.float32] = (positive * 2 - queries.sum(axis=1)) / np.float32(np.sqrt(dim))
        return products

    def _bits(self, data: bytes, dim: int) -> NDArray[np.uint8]:
        """1 where a component is positive, 0 elsewhere, (tokens, dim)."""
        return np.unpackbits(token_rows(data, self.bytes_per_token(dim)), axis=1, count=dim)
