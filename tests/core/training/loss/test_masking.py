"""Passages that are no candidates, or no negatives of a query, because of what they say."""

from __future__ import annotations

import torch

from m3plugins.training.loss import masking

A, B, C, D, E = range(1, 6)
NONE = 0


def known(query: list[int], passages: list[int], examples: dict[int, list[int]]) -> list[list[bool]]:
    asked, answers = torch.tensor(list(examples)), torch.tensor(list(examples.values()))
    return masking.known_positives(torch.tensor(query), torch.tensor(passages), asked, answers).tolist()


def test_a_positive_of_the_query_is_known_wherever_it_stands() -> None:
    assert known([1, 2], [A, B, C, A], {1: [A, NONE], 2: [C, B]}) == [
        [True, False, False, True],
        [False, True, True, False],
    ]


def test_examples_of_one_query_know_each_others_positives() -> None:
    asked, answers = torch.tensor([1, 2, 1]), torch.tensor([[A], [C], [D]])
    found = masking.known_positives(torch.tensor([1, 2]), torch.tensor([A, B, C, D]), asked, answers)
    assert found.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_of_a_text_that_stands_in_several_columns_the_first_is_a_candidate() -> None:
    assert masking.repeats(torch.tensor([A, B, C, A, B, D])).tolist() == [False, False, False, True, True, False]


def test_padding_is_no_candidate() -> None:
    assert masking.repeats(torch.tensor([A, NONE, B, NONE])).tolist() == [False, True, False, True]
