"""Estimated lengths: near what the tokenizer counts, at the price of a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.lengths import SAMPLE, estimated_lengths
from tests.tiny import SENTENCES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAXIMA: dict[str, Any] = {"max_query_length": 8192, "max_passage_length": 8192, "prompts": Prompts()}


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
    lengths = estimated_lengths(
        dataset, tokenizer, negatives=7, **{**MAXIMA, "max_query_length": 16, "max_passage_length": 64}
    )
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
    assert counting.texts == 2 * (SAMPLE + 10) + 2  # and the prompts


def test_only_negatives_that_there_are_count(tokenizer: Tokenizer) -> None:
    rows = [{"query": "fox", "pos": ["fox"], "neg": negatives} for negatives in ([], ["dog"], list("abcd"))]
    none, one, two = estimated_lengths(M3Dataset.from_examples(rows), tokenizer, **MAXIMA, negatives=2)
    assert none < one < two and two - one == one - none


def test_the_prompts_of_a_run_count_where_a_query_has_none_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"query": "fox", "pos": ["fox"], "neg": ["dog"], "prompt": prompt} for prompt in ("", "find: ", "")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts = Prompts(query="quick brown ", document="the lazy dog said: ")
    query, document = (
        len(tokenizer.encode(prompt, add_special_tokens=False).ids) for prompt in (prompts.query, prompts.document)
    )
    assert query and document
    for dataset in (M3Dataset.from_examples(rows), M3Dataset.from_jsonl(path)):
        plain = estimated_lengths(dataset, tokenizer, **MAXIMA, negatives=1)
        prompted = estimated_lengths(dataset, tokenizer, **{**MAXIMA, "prompts": prompts}, negatives=1)
        assert (prompted - plain).tolist() == [query + 2 * document, 2 * document, query + 2 * document]


def test_prompts_are_within_the_maxima(tokenizer: Tokenizer) -> None:
    dataset = M3Dataset.from_examples([{"query": "fox", "pos": ["fox"]}])
    settings = {"max_query_length": 4, "max_passage_length": 8, "prompts": Prompts(query="fox " * 9, document="a " * 9)}
    assert estimated_lengths(dataset, tokenizer, **{**MAXIMA, **settings}, negatives=0).tolist() == [4 + 8]
