"""Sparse (lexical) embeddings: token weights in a compressed sparse row layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.ragged import ragged_offsets, ragged_take

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


SENTINEL_WEIGHT = 1e-6
"""Weight of the sentinel entry, see `SparseEmbeddings.to_dicts`."""


@dataclass(frozen=True, eq=False)
class SparseVector:
    """The sparse embedding of one text.

    Attributes:
        indices: Token ids, ascending, shape (nnz,), int32.
        values: Weights, all > 0, shape (nnz,), float32.
    """

    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    def to_dict(self) -> dict[int, float]:
        """Token id to weight, in plain Python numbers (JSON-ready, and what Milvus takes)."""
        return dict(zip(self.indices.tolist(), self.values.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, eq=False)
class SparseEmbeddings(Sequence[SparseVector]):
    """The sparse embeddings of n texts, CSR-like.

    Row `i` is `indices[indptr[i]:indptr[i + 1]]` (token ids, ascending) with its `values`
    (weights > 0). Rows and slices are copies: keeping one does not keep the batch.

    Attributes:
        indptr: Row boundaries, shape (n + 1,), int64.
        indices: Token ids, shape (nnz,), int32.
        values: Weights, shape (nnz,), float32.
        vocab_size: Number of token ids of the model, the width of `to_scipy()`.

    Example:
        >>> sparse = SparseEmbeddings.from_dicts([{7: 0.5, 2: 1.0}, {}], vocab_size=10)
        >>> sparse[0].to_dict()
        {2: 1.0, 7: 0.5}
        >>> len(sparse), len(sparse[1])
        (2, 0)
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    vocab_size: int

    @classmethod
    def from_dicts(cls, rows: Iterable[Mapping[int, float]], *, vocab_size: int) -> SparseEmbeddings:
        """Builds embeddings from one `{token id: weight}` mapping per text; weights of 0 are dropped.

        Raises:
            ValueError: If a weight is negative or NaN.
        """
        rows = list(rows)
        for number, row in enumerate(rows):
            if wrong := [(i, v) for i, v in row.items() if not v >= 0]:
                msg = f"sparse weights must be 0 or more, got {wrong[0][1]:g} for token {wrong[0][0]} in row {number}"
                raise ValueError(msg)
        kept = [sorted((int(i), float(v)) for i, v in row.items() if v > 0) for row in rows]
        flat = [pair for row in kept for pair in row]
        return cls(
            indptr=ragged_offsets([len(row) for row in kept]),
            indices=np.array([i for i, _ in flat], dtype=np.int32),
            values=np.array([v for _, v in flat], dtype=np.float32),
            vocab_size=vocab_size,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[SparseEmbeddings]) -> SparseEmbeddings:
        """Joins embeddings of one vocabulary, in order. `parts` must not be empty."""
        return cls(
            indptr=ragged_offsets(np.concatenate([np.diff(part.indptr) for part in parts])),
            indices=np.concatenate([part.indices for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            vocab_size=parts[0].vocab_size,
        )

    def take(self, rows: NDArray[np.int64]) -> SparseEmbeddings:
        """A copy of the given rows, in the given order."""
        tokens, indptr = ragged_take(self.indptr, rows)
        return SparseEmbeddings(indptr, self.indices[tokens], self.values[tokens], self.vocab_size)

    def to_dicts(self, *, sentinel: bool = False) -> list[dict[int, float]]:
        """Token id to weight of each text, in plain Python numbers.

        Args:
            sentinel: Gives a text without a token one tiny weight, of an id beyond the vocabulary, which no query
                has: for stores that take no empty vector, such as Milvus.

        Example:
            >>> SparseEmbeddings.from_dicts([{7: 0.5}, {}], vocab_size=10).to_dicts(sentinel=True)
            [{7: 0.5}, {10: 1e-06}]
        """
        empty = {self.vocab_size: SENTINEL_WEIGHT} if sentinel else {}
        return [row.to_dict() or dict(empty) for row in self]

    def to_scipy(self) -> csr_matrix:
        """The same weights as a `scipy.sparse.csr_matrix` of shape (n, vocab_size). Needs scipy."""
        from scipy.sparse import csr_matrix

        return csr_matrix((self.values, self.indices, self.indptr), shape=(len(self), self.vocab_size))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, key: int) -> SparseVector: ...
    @overload
    def __getitem__(self, key: slice) -> SparseEmbeddings: ...
    def __getitem__(self, key: int | slice) -> SparseVector | SparseEmbeddings:
        if isinstance(key, slice):
            return self.take(np.arange(len(self))[key])
        row = range(len(self))[key]
        span = slice(self.indptr[row], self.indptr[row + 1])
        return SparseVector(self.indices[span].copy(), self.values[span].copy())
