"""Estimated lengths: near what the tokenizer counts, at the price of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training.dataset import M3Dataset
from m3plugins.training.lengths import SAMPLE, estimated_lengths
from tests.tiny import SENTENCES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAXIMA = {"max_query_length": 8192, "max_passage_length": 8192}


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return load_tokenizer(checkpoint)[0]


def language(position: int, count: int) -> M3Dataset:
    """Queries of one sentence, passages of one to eight in the same language."""
    sentence = SENTENCES[position]
    rows = [
        {"query": sentence, "pos": [" ".join([sentence] * (1 + number % 8))], "neg": [f"no {sentence}", sentence[:9]]}
        for number in range(count)
    ]
    return M3Dataset.from_examples(rows, source=str(position))


def test_estimates_are_near_the_truth_in_every_script(tokenizer: Tokenizer) -> None:
    dataset = language(0, 16)
    for position in range(1, len(SENTENCES)):
        dataset += language(position, 16)
    estimates = estimated_lengths(dataset, tokenizer, **MAXIMA, negatives=2)
    truth = [
        len(tokenizer.encode(example.query).ids) + 3 * len(tokenizer.encode(example.longest_passage).ids)
        for example in dataset
    ]
    assert estimates.dtype == np.int64
    np.testing.assert_allclose(estimates, truth, rtol=0.15)


def test_one_example_is_counted_exactly_with_its_special_tokens(tokenizer: Tokenizer) -> None:
    query, passage = "fox", SENTENCES[1]
    dataset = M3Dataset.from_examples([{"query": query, "pos": [passage]}])
    tokens = [len(tokenizer.encode(text).ids) for text in (query, passage)]
    assert estimated_lengths(dataset, tokenizer, **MAXIMA, negatives=0).tolist() == [sum(tokens)]


def test_estimates_are_cut_at_the_maxima(tokenizer: Tokenizer) -> None:
    dataset = M3Dataset.from_examples([{"query": "fox " * 500, "pos": ["fox " * 500], "neg": list("abcdefghij")}])
    lengths = estimated_lengths(dataset, tokenizer, max_query_length=16, max_passage_length=64, negatives=7)
    assert lengths.tolist() == [16 + 8 * 64]


def test_only_a_sample_is_tokenised(tokenizer: Tokenizer) -> None:
    class Counting:
        texts = 0

        def encode(self, *args: Any, **kwargs: Any) -> Any:
            self.texts += 1
            return tokenizer.encode(*args, **kwargs)

        def num_special_tokens_to_add(self, pair: bool) -> int:
            return tokenizer.num_special_tokens_to_add(pair)

    counting: Any = Counting()
    estimated_lengths(language(0, 1000) + language(1, 10), counting, **MAXIMA, negatives=1)
    assert counting.texts == 2 * (SAMPLE + 10)


def test_only_negatives_that_there_are_count(tokenizer: Tokenizer) -> None:
    rows = [{"query": "fox", "pos": ["fox"], "neg": negatives} for negatives in ([], ["dog"], list("abcd"))]
    none, one, two = estimated_lengths(M3Dataset.from_examples(rows), tokenizer, **MAXIMA, negatives=2)
    assert none < one < two and two - one == one - none
