"""A row in FlagEmbedding's format becomes an example, or the error says what is wrong with it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins.training.data.examples import Example

ROW = {"query": "who jumps?", "pos": ["The fox jumps."], "neg": ["The dog sleeps."]}
WORDS = st.sampled_from(["a", "b", "c", "d", " "])


def test_a_row_becomes_an_example() -> None:
    row = {**ROW, "pos_scores": [2], "neg_scores": [0.5], "prompt": "Query: ", "type": "normal"}
    assert Example.from_row(row, source="foxes") == Example(
        query="who jumps?",
        positives=("The fox jumps.",),
        negatives=("The dog sleeps.",),
        positive_scores=(2.0,),
        negative_scores=(0.5,),
        prompt="Query: ",
        source="foxes",
    )


@pytest.mark.parametrize("key", ["neg", "pos_scores", "neg_scores", "prompt"])
def test_null_is_as_good_as_missing(key: str) -> None:
    without = {name: value for name, value in ROW.items() if name != key}
    assert Example.from_row({**ROW, key: None}) == Example.from_row(without)


@pytest.mark.parametrize(("prompt", "text"), [(None, "who jumps?"), ("", "who jumps?"), ("Q: ", "Q: who jumps?")])
def test_the_prompt_goes_ahead_of_the_query(prompt: str | None, text: str) -> None:
    assert Example.from_row({**ROW, "prompt": prompt}).prompted_query == text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": None}, "needs query and pos; this one lacks query, it has neg, pos, query"),
        ({"query": 7}, "query must be a string, got int"),
        ({"query": " \n"}, r"query must not be blank, got ' \\n'"),
        ({"query": "fox \ud800"}, "query must be valid Unicode, got a lone surrogate at character 4"),
        ({"prompt": 1}, "prompt must be a string, got int"),
        ({"pos": None}, "this one lacks pos"),
        ({"pos": []}, "positives must hold at least one text"),
        ({"pos": "The fox."}, "positives must be a list of texts, got str"),
        ({"pos": ["The fox.", ""]}, r"positives\[1\] must not be blank"),
        ({"pos": ["The fox.", None]}, r"positives\[1\] must be a string, got NoneType"),
        ({"neg": "The dog."}, "negatives must be a list of texts, got str"),
        ({"neg": ["\udfff"]}, r"negatives\[0\] must be valid Unicode"),
        ({"pos_scores": [1.0]}, "got positive_scores only; add negative_scores"),
        ({"neg_scores": [1.0]}, "got negative_scores only; add positive_scores"),
        ({"pos_scores": [1.0, 2.0], "neg_scores": [1.0]}, "positive_scores must be a list of 1 numbers, .* got 2"),
        ({"pos_scores": [1.0], "neg_scores": 1.0}, "negative_scores must be a list of 1 numbers, .* got float"),
        ({"pos_scores": [True], "neg_scores": [1.0]}, r"positive_scores\[0\] must be a finite number .* got True"),
        ({"pos_scores": [float("nan")], "neg_scores": [1.0]}, r"positive_scores\[0\] must be a finite number"),
        ({"pos_scores": [1.0], "neg_scores": [1e39]}, r"negative_scores\[0\] must be a finite number"),
        ({"pos_scores": [1.0], "neg_scores": [10**400]}, r"negative_scores\[0\] must be a finite number"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Example.from_row({**ROW, **change})


def test_a_query_without_negatives_needs_no_scores_for_them() -> None:
    assert Example.from_row({"query": "q", "pos": ["p"], "pos_scores": [3]}).negative_scores == ()


def test_a_negative_that_is_a_positive_goes_and_its_score_with_it() -> None:
    row = {"query": "q", "pos": ["p"], "neg": ["a", "p", "b"], "pos_scores": [9], "neg_scores": [1, 8, 2]}
    distinct = Example.from_row(row).distinct()
    assert (distinct.negatives, distinct.negative_scores) == (("a", "b"), (1.0, 2.0))


@given(st.lists(WORDS, max_size=8))
def test_distinct_negatives_keep_their_first_place(negatives: list[str]) -> None:
    distinct = Example("q", ("a",), tuple(negatives)).distinct()
    assert distinct.negatives == tuple(text for text in dict.fromkeys(negatives) if text not in ("a", " "))


def test_sizes_are_bytes_of_the_prompted_query_and_the_longest_passage() -> None:
    assert Example("é", ("ab",), ("日本", "abcd"), prompt="p").sizes == (3, 6, 2)


def test_an_example_pickles() -> None:
    example = Example.from_row(json.loads(json.dumps(ROW)))
    assert pickle.loads(pickle.dumps(example)) == example
