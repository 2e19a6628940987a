"""The interface of multi-vector codecs, and the codecs by name."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3plugins.compression.binary import BinaryCodec
from m3plugins.compression.float16 import Float16Codec
from m3plugins.compression.int8 import Int8Codec


class Codec(Protocol):
    """Turns token vectors into bytes for storage, and back. A token's bytes are contiguous."""

    @property
    def name(self) -> str:
        """The name that `get_codec` knows, recorded beside what is stored."""

    def bytes_per_token(self, dim: int) -> int:
        """Stored size of one token vector of width `dim`."""

    def encode(self, vectors: NDArray[np.float32]) -> bytes:
        """Packs vectors of shape (tokens, dim), float32, unit rows."""

    def decode(self, data: bytes, dim: int) -> NDArray[np.float32]:
        """Unpacks what `encode` returned to shape (tokens, dim), float32."""

    def products(self, data: bytes, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dot products of the stored vectors with a query's, as of those that `decode` returns, and faster.

        Args:
            data: Vectors as `encode` packed them.
            queries: Shape (query tokens, dim), float32.

        Returns:
            Shape (tokens, query tokens), float32.
        """


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float16Codec(), Int8Codec(), BinaryCodec())}

DEFAULT_CODEC = BinaryCodec.name
"""Codec of new indexes; an existing index keeps the codec it was created with."""


def get_codec(name: str) -> Codec:
    """Returns the codec of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in CODECS:
        msg = f"codec must be one of {', '.join(CODECS)}, got {name!r}"
        raise ValueError(msg)
    return CODECS[name]
