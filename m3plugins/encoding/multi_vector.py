"""Multi-vector (late-interaction) embeddings: one vector per token, in ragged storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.ragged import ragged_offsets, ragged_take


@dataclass(frozen=True, eq=False)
class MultiVectorEmbeddings(Sequence[NDArray[np.float32]]):
    """The token vectors of n texts, ragged.

    Text `i` has the vectors `vectors[offsets[i]:offsets[i + 1]]`. Rows and slices are copies:
    keeping one does not keep the batch.

    Attributes:
        offsets: Text boundaries, shape (n + 1,), int64.
        vectors: All token vectors, shape (total tokens, dim), float32, unit rows.

    Example:
        >>> embeddings = MultiVectorEmbeddings.from_list([np.eye(2), np.eye(2)[:1]])
        >>> len(embeddings), embeddings[1].tolist()
        (2, [[1.0, 0.0]])
    """

    offsets: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @classmethod
    def from_list(cls, rows: Sequence[NDArray[np.floating]]) -> MultiVectorEmbeddings:
        """Builds embeddings from one (tokens, dim) array per text. `rows` must not be empty."""
        return cls(
            offsets=ragged_offsets([len(row) for row in rows]),
            vectors=np.concatenate(rows).astype(np.float32, copy=False),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[MultiVectorEmbeddings]) -> MultiVectorEmbeddings:
        """Joins embeddings of one width, in order. `parts` must not be empty."""
        return cls(
            offsets=ragged_offsets(np.concatenate([np.diff(part.offsets) for part in parts])),
            vectors=np.concatenate([part.vectors for part in parts]),
        )

    def take(self, rows: NDArray[np.int64]) -> MultiVectorEmbeddings:
        """A copy of the given texts' vectors, in the given order."""
        positions, offsets = ragged_take(self.offsets, rows)
        return MultiVectorEmbeddings(offsets, self.vectors[positions])

    @property
    def dim(self) -> int:
        """Width of a token vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, key: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, key: slice) -> MultiVectorEmbeddings: ...
    def __getitem__(self, key: int | slice) -> NDArray[np.float32] | MultiVectorEmbeddings:
        if isinstance(key, slice):
            return self.take(np.arange(len(self))[key])
        row = range(len(self))[key]
        return self.vectors[self.offsets[row] : self.offsets[row + 1]].copy()
