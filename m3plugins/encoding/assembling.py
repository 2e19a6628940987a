"""Assembly of batches, sorted by length, into one output in input order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.backends.base import BatchOutput
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.ragged import ragged_offsets, ragged_take
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.encoding.tokenizing import TokenizedText

UNIT_ERROR = 1e-3
"""How far the square of a unit vector's length may be from 1, as Elasticsearch has it."""


class Assembly:
    """The outputs of one window of texts, filled in batch by batch.

    Args:
        window: The texts, in input order.
        special_ids: Token ids without lexical weight.
        vocab_size: Number of token ids.
    """

    def __init__(self, window: Sequence[TokenizedText], *, special_ids: Sequence[int], vocab_size: int) -> None:
        self._ids = np.concatenate([text.ids for text in window])
        self._truncated = np.array([text.truncated for text in window])
        self.lengths = np.array([len(text.ids) for text in window], dtype=np.int64)
        self._special_ids = special_ids
        self._vocab_size = vocab_size
        self._offsets = ragged_offsets(self.lengths)
        cls_tokens = np.array([len(text.cls) for text in window], dtype=np.int64)
        self._vector_offsets = ragged_offsets(self.lengths - cls_tokens)  # CLS tokens have no vector
        self._dense: NDArray[np.float32] | None = None
        self._weights: NDArray[np.float32] | None = None
        self._vectors: NDArray[np.float32] | None = None

    def add(self, rows: NDArray[np.int64], output: BatchOutput) -> None:
        """Puts the output of a batch in its rows' places."""
        if output.dense is not None:
            if self._dense is None:
                self._dense = np.empty((len(self.lengths), output.dense.shape[1]), np.float32)
            self._dense[rows] = output.dense
        if output.token_weights is not None:
            if self._weights is None:
                self._weights = np.empty(self._offsets[-1], np.float32)
            self._weights[ragged_take(self._offsets, rows)[0]] = output.token_weights
        if output.token_vectors is not None:
            if self._vectors is None:
                self._vectors = np.empty((self._vector_offsets[-1], output.token_vectors.shape[1]), np.float32)
            self._vectors[ragged_take(self._vector_offsets, rows)[0]] = output.token_vectors

    def output(self) -> M3Output:
        """The window's embeddings, once every row was added."""
        sparse = None
        if self._weights is not None:
            rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
            weights = np.where(np.isin(self._ids, self._special_ids), 0, self._weights)
            sparse = max_per_token(rows, self._ids, weights, n=len(self.lengths), vocab_size=self._vocab_size)
        return M3Output(
            dense=self._dense,
            sparse=sparse,
            multi_vector=None if self._vectors is None else MultiVectorEmbeddings(self._vector_offsets, self._vectors),
            token_counts=self.lengths.astype(np.int32),
            truncated=self._truncated,
        )


def check_embeddings(output: BatchOutput, model: str) -> None:
    """Refuses what no text can be found by. A NaN among the sparse weights would be left out without a word.

    Args:
        output: Of one forward pass.
        model: For the message.

    Raises:
        ValueError: If a head gave NaN or infinity, or vectors that are not of unit length.
    """
    lengths = {"dense": _squares(output.dense), "multi_vector": _squares(output.token_vectors)}
    for head, values in {**lengths, "sparse": output.token_weights}.items():
        if values is None:
            continue
        if not np.isfinite(values).all():
            wrong = "NaN or infinity"
        elif head != "sparse" and not (np.abs(values - 1) <= UNIT_ERROR).all():
            wrong = "a vector that is not of unit length"
        else:
            continue
        msg = (
            f"embeddings must be finite, the {head} head gave {wrong}: the weights of {model} are damaged, or "
            "dtype is too narrow for them; download the checkpoint again, or use dtype float32"
        )
        raise ValueError(msg)


def _squares(vectors: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """The squares of the lengths."""
    if vectors is None:
        return None
    squares: NDArray[np.float32] = np.einsum("ij,ij->i", vectors, vectors)
    return squares


def max_per_token(
    rows: NDArray[np.int64], ids: NDArray[np.int32], weights: NDArray[np.float32], *, n: int, vocab_size: int
) -> SparseEmbeddings:
    """Token weights to sparse embeddings: per text, each id's largest weight, those > 0 (M3 paper, section 3.1).

    Args:
        rows: The text of each token, shape (t,).
        ids: The id of each token, shape (t,).
        weights: The weight of each token, shape (t,).
        n: Number of texts.
        vocab_size: Number of token ids.

    Example:
        >>> sparse = max_per_token(
        ...     np.array([0, 0, 0, 1]), np.array([5, 3, 5, 2]), np.float32([0.25, 0.5, 1.0, 0.0]), n=2, vocab_size=9
        ... )
        >>> sparse[0].to_dict(), sparse[1].to_dict()
        ({3: 0.5, 5: 1.0}, {})
    """
    kept = weights > 0
    keys = rows[kept].astype(np.int64) * vocab_size + ids[kept]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    values = np.maximum.reduceat(weights[kept][order], starts) if len(starts) else np.empty(0)
    text_of, id_of = np.divmod(keys[starts], vocab_size)
    return SparseEmbeddings(
        indptr=ragged_offsets(np.bincount(text_of, minlength=n)),
        indices=id_of.astype(np.int32),
        values=values.astype(np.float32),
        vocab_size=vocab_size,
    )
