"""Measures against values computed by hand."""

from __future__ import annotations

import math

import pytest

from m3plugins.evaluation import measure


def test_ndcg_discounts_by_rank_and_gain_by_grade() -> None:
    found = measure({"q": ["x", "a", "y", "b"]}, {"q": {"a": 1, "b": 2}}, ["nDCG@10"])["nDCG@10"]
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert found.mean == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / ideal)


def test_ndcg_at_10_does_not_see_rank_11() -> None:
    run = [f"x{i}" for i in range(10)] + ["a"]
    assert measure({"q": run}, {"q": {"a": 1}})["nDCG@10"].mean == 0


def test_recall_is_the_share_of_the_relevant_that_were_found() -> None:
    qrels = {"q": {"a": 1, "b": 1, "c": 2, "d": 1, "n": 0}}
    assert measure({"q": ["a", "n", "c"]}, qrels)["R@100"].mean == 0.5


def test_every_query_counts_the_same_and_one_that_found_nothing_counts_0() -> None:
    qrels = {"q1": {"a": 1}, "q2": {f"b{i}": 1 for i in range(9)}, "q3": {"c": 1}}
    found = measure({"q1": ["a"], "q2": [f"b{i}" for i in range(9)]}, qrels)["nDCG@10"]
    assert found.per_query == pytest.approx({"q1": 1.0, "q2": 1.0, "q3": 0.0})
    assert found.mean == pytest.approx(2 / 3)


def test_the_order_of_a_long_run_is_kept_whatever_the_ids() -> None:
    run = [f"d{i:05d}" for i in reversed(range(20_000))]
    values = measure({"q": run}, {"q": {run[0]: 1}}, ["RR", "R@1"])
    assert values["RR"].mean == 1 and values["R@1"].mean == 1


def test_no_judgements_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        measure({"q": ["a"]}, {})
