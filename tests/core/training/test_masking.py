"""Passages that are no negatives of a query because of what they say."""

from __future__ import annotations

import torch

from m3plugins.training import Batch, TokenBatch, masking

A, B, C, D, E = range(1, 6)


def batch(passages: list[int], positives: list[list[int]]) -> Batch:
    """Of texts that have one token; numbers stand for them."""

    def texts(count: int) -> TokenBatch:
        return TokenBatch(torch.zeros(count, 1, dtype=torch.long), torch.ones(count, 1, dtype=torch.bool))

    return Batch(
        queries=texts(len(positives)),
        passages=texts(len(passages)),
        passage_keys=torch.tensor(passages),
        positive_keys=torch.tensor(positives),
    )


def test_a_positive_of_the_query_is_known_wherever_it_stands() -> None:
    pairs = batch([A, B, C, A], positives=[[A, -1], [C, B]])
    assert masking.known_positives(pairs, pairs.passage_keys).tolist() == [
        [True, False, False, True],
        [False, True, True, False],
    ]


def test_passages_of_other_processes_are_known_too() -> None:
    pairs = batch([A, B], positives=[[A, E]])
    assert masking.known_positives(pairs, torch.tensor([A, B, E, D])).tolist() == [[True, False, True, False]]


def test_of_a_text_that_stands_in_several_columns_the_first_counts() -> None:
    pairs = batch([A, B, C, A, B, D], positives=[[A], [C], [D]])
    assert (
        masking.repeats(pairs, pairs.passage_keys, in_batch_negatives=True).tolist()
        == [[False, False, False, True, True, False]] * 3
    )


def test_a_repeat_on_another_process_counts_once() -> None:
    pairs = batch([A, B], positives=[[A]])
    keys = torch.tensor([A, B, B, C])
    assert masking.repeats(pairs, keys, in_batch_negatives=True).tolist() == [[False, False, True, False]]


def test_without_in_batch_negatives_only_the_own_group_is_looked_at() -> None:
    pairs = batch([A, B, B, A, C, C], positives=[[A], [A]])
    assert masking.repeats(pairs, pairs.passage_keys, in_batch_negatives=False).tolist() == [
        [False, False, True, False, False, False],
        [False, False, False, False, False, True],
    ]
