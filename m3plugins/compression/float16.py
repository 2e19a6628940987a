"""Half precision: 2 bytes a dimension, relative error below 2^-11."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression._shape import check_stored, check_vectors, token_rows
from m3plugins.scoring.products import dot_products


@dataclass(frozen=True)
class Float16Codec:
    """IEEE 754 half precision, little endian.

    Example:
        >>> codec = Float16Codec()
        >>> codec.decode(codec.encode(np.array([[0.5, -0.25]], np.float32)), dim=2).tolist()
        [[0.5, -0.25]]
    """

    name: str = "float16"

    def bytes_per_token(self, dim: int) -> int:
        """2 bytes a dimension."""
        return 2 * dim

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        """Packs (tokens, dim) float32 into 2 * tokens * dim bytes."""
        return check_vectors(vectors).astype("<f2").tobytes()

    def decode(self, data: bytes, dim: int) -> NDArray[np.float32]:
        """Unpacks to (tokens, dim) float32."""
        return check_stored(self._halves(data, dim).astype(np.float32))

    def products(self, data: bytes, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """`decode(data, dim) @ queries.T`, without decoding: (tokens, query tokens) float32."""
        with np.errstate(invalid="ignore"):  # infinity is told below
            return check_stored(dot_products(self._halves(data, queries.shape[1]), queries))

    def _halves(self, data: bytes, dim: int) -> NDArray[np.float16]:
        return token_rows(data, self.bytes_per_token(dim)).view("<f2")
