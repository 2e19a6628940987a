"""Embeddings for the benchmarks, made here: BGE-M3's shape, topics that documents share, Zipf-distributed tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from m3plugins import M3Output, MultiVectorEmbeddings, SparseEmbeddings

DIM = 1024
VOCABULARY = 250_002
TOPICS = 256
WORDS = 4096


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Corpus:
    """Documents' and queries' embeddings by number: the same number gives the same ones."""

    def __init__(self, tokens: int = 180, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.tokens = tokens
        self._seed = seed
        self._topics = unit(rng.standard_normal((TOPICS, DIM), np.float32))
        self._words = unit(rng.standard_normal((WORDS, DIM), np.float32))

    def documents(self, count: int) -> Iterator[M3Output]:
        """Makes one output a document, of `tokens` token vectors within a fifth, and about 60 to 100 token weights."""
        for number in range(count):
            rng = np.random.default_rng([self._seed, 0, number])
            yield self._text(rng, int(self.tokens * rng.uniform(0.8, 1.2)), int(rng.integers(60, 101)))

    def query(self, number: int, tokens: int = 12) -> M3Output:
        """An output with this many token vectors and at most as many token weights."""
        return self._text(np.random.default_rng([self._seed, 1, number]), tokens, tokens - 2)

    def _text(self, rng: np.random.Generator, tokens: int, terms: int) -> M3Output:
        topic = self._topics[rng.integers(TOPICS)]
        vectors = unit(self._words[rng.integers(WORDS, size=tokens)] + topic)
        ids = np.unique(rng.zipf(1.2, size=2 * terms) % VOCABULARY)[:terms].astype(np.int32)
        weights = rng.uniform(0.02, 0.35, len(ids)).astype(np.float32)
        return M3Output(
            dense=unit(topic + 0.8 * unit(rng.standard_normal(DIM, np.float32)))[None],
            sparse=SparseEmbeddings(np.array([0, len(ids)]), ids, weights, VOCABULARY),
            multi_vector=MultiVectorEmbeddings(np.array([0, tokens]), vectors),
            token_counts=np.array([tokens], np.int32),
            truncated=np.zeros(1, np.bool_),
        )
