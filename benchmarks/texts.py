"""Texts for the benchmarks, made here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.fixtures import SENTENCES


def mixed_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Texts of log-normal length in several scripts; median 18 words, about 90 tokens of the tests' tokenizer."""
    rng = np.random.default_rng(seed)
    words = [word for sentence in SENTENCES for word in sentence.split()]
    for _ in range(count):
        yield " ".join(rng.choice(words, size=int(np.exp(rng.normal(2.9, 0.9))) + 1))
