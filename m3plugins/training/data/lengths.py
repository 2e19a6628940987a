"""Estimates of how many tokens examples have, without tokenising them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.training.data.dataset import M3Dataset

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 128
"""Number of examples of each source of which a query and a passage are tokenised."""

_CHARACTERS = 10_000


def estimated_lengths(
    dataset: M3Dataset,
    tokenizer: Tokenizer,
    *,
    max_query_length: int,
    max_passage_length: int,
    negatives: int,
    prompts: Prompts,
) -> NDArray[np.int64]:
    """Estimates the tokens of each example: its query, and the passages drawn, each as long as its longest, all cut.

    Bytes are scaled by the tokens per byte of the source, queries and passages apart, as measured on a sample. The
    prompts of the run are counted by themselves.

    Args:
        dataset: Examples to estimate.
        tokenizer: Tokenizer, as `load_tokenizer` returns it.
        max_query_length: Maximum number of tokens of a query, special tokens included.
        max_passage_length: Maximum number of tokens of a passage.
        negatives: Maximum number that is drawn for a query.
        prompts: Prompts ahead of the queries that have none of their own, and of all passages.

    Returns:
        Estimates, (n,) int64.
    """
    columns = dataset.columns
    sizes, available = columns.sizes[:, :2], columns.sizes[:, 2]
    tokens = np.empty(sizes.shape)
    for position in range(len(columns.source_names)):
        rows = np.flatnonzero(columns.source_of == position)
        chosen = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)), dtype=np.int64)]
        examples = [dataset[int(row)] for row in chosen]
        pairs = ([example.prompted_query for example in examples], [example.longest_passage for example in examples])
        tokens[rows] = sizes[rows] * [_tokens_per_byte(tokenizer, texts) for texts in pairs]
    tokens[~columns.prompted, 0] += _tokens(tokenizer, prompts.query)
    tokens[:, 1] += _tokens(tokenizer, prompts.document)
    tokens += tokenizer.num_special_tokens_to_add(False)
    query, passage = np.ceil(np.minimum(tokens, [max_query_length, max_passage_length])).astype(np.int64).T
    lengths: NDArray[np.int64] = query + (1 + np.minimum(available, negatives)) * passage
    return lengths


def _tokens_per_byte(tokenizer: Tokenizer, texts: list[str]) -> float:
    # One at a time: a batch would start the tokenizer's threads, and data loaders fork after this.
    starts = [text[:_CHARACTERS] for text in texts]
    return sum(_tokens(tokenizer, text) for text in starts) / sum(len(text.encode()) for text in starts)


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)
