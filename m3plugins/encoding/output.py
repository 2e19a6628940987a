"""What encoding returns: the heads' embeddings of n texts, in columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.sparse import SparseEmbeddings

Head = Literal["dense", "sparse", "multi_vector"]
HEADS: tuple[Head, ...] = get_args(Head)


def check_heads(heads: Iterable[str]) -> tuple[Head, ...]:
    """The heads in canonical order.

    Raises:
        ValueError: If `heads` is empty or names an unknown head.
    """
    asked = {heads} if isinstance(heads, str) else set(heads)
    if not asked or not asked <= set(HEADS):
        msg = f"heads must be one or more of {', '.join(HEADS)}, got {heads!r}"
        raise ValueError(msg)
    return tuple(head for head in HEADS if head in asked)


@dataclass(frozen=True, eq=False)
class M3Output:
    """The embeddings of n texts; a head that was not asked for is None.

    `len()`, slices and `take` work on texts; what they return is a copy, safe to keep.

    Attributes:
        dense: Shape (n, dim), float32, unit rows.
        sparse: Token weights, n rows.
        multi_vector: Token vectors, n ragged rows, unit vectors.
        token_counts: Tokens read per text, special tokens included, shape (n,), int32.
        truncated: Whether the text was longer than the maximum length and was cut, shape (n,), bool.
    """

    dense: NDArray[np.float32] | None
    sparse: SparseEmbeddings | None
    multi_vector: MultiVectorEmbeddings | None
    token_counts: NDArray[np.int32]
    truncated: NDArray[np.bool_]

    @classmethod
    def concatenate(cls, parts: Sequence[M3Output]) -> M3Output:
        """Joins outputs of the same heads, in order. `parts` must not be empty."""
        if len(parts) == 1:
            return parts[0]
        dense = [part.dense for part in parts if part.dense is not None]
        sparse = [part.sparse for part in parts if part.sparse is not None]
        multi_vector = [part.multi_vector for part in parts if part.multi_vector is not None]
        return cls(
            dense=np.concatenate(dense) if dense else None,
            sparse=SparseEmbeddings.concatenate(sparse) if sparse else None,
            multi_vector=MultiVectorEmbeddings.concatenate(multi_vector) if multi_vector else None,
            token_counts=np.concatenate([part.token_counts for part in parts]),
            truncated=np.concatenate([part.truncated for part in parts]),
        )

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that are present, in canonical order."""
        return tuple(head for head in HEADS if getattr(self, head) is not None)

    def select(self, heads: Iterable[str]) -> M3Output:
        """The same texts with only the given heads.

        Raises:
            ValueError: If a head is unknown or absent.
        """
        kept = check_heads(heads)
        if missing := set(kept) - set(self.heads):
            msg = f"this output has the heads {self.heads}; encode again with {sorted(missing)} to use them"
            raise ValueError(msg)
        return replace(
            self,
            dense=self.dense if "dense" in kept else None,
            sparse=self.sparse if "sparse" in kept else None,
            multi_vector=self.multi_vector if "multi_vector" in kept else None,
        )

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> M3Output:
        """A copy of the given texts' embeddings, in the given order."""
        index = np.asarray(rows, dtype=np.int64)
        return M3Output(
            dense=None if self.dense is None else self.dense[index],
            sparse=None if self.sparse is None else self.sparse.take(index),
            multi_vector=None if self.multi_vector is None else self.multi_vector.take(index),
            token_counts=self.token_counts[index],
            truncated=self.truncated[index],
        )

    def digest(self) -> str:
        """32 hex digits that change with any value."""
        hasher = hashlib.sha256(",".join(self.heads).encode())
        for array in self._arrays():
            hasher.update(str(array.shape).encode())
            hasher.update(np.ascontiguousarray(array).data)
        return hasher.hexdigest()[:32]

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self._arrays())

    def _arrays(self) -> list[NDArray[Any]]:
        arrays: list[NDArray[Any]] = [self.token_counts, self.truncated]
        if self.dense is not None:
            arrays.append(self.dense)
        if self.sparse is not None:
            arrays += [self.sparse.indptr, self.sparse.indices, self.sparse.values]
        if self.multi_vector is not None:
            arrays += [self.multi_vector.offsets, self.multi_vector.vectors]
        return arrays

    def __len__(self) -> int:
        return len(self.token_counts)

    def __getitem__(self, key: slice | int) -> M3Output:
        """The given texts' embeddings; an integer gives an output of one text."""
        rows = np.arange(len(self))[key]
        return self.take(np.atleast_1d(rows))

    def __iter__(self) -> Iterator[M3Output]:
        """One output of length 1 per text."""
        return (self[row] for row in range(len(self)))
