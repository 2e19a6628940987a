"""Fusion: the weighted sum and reciprocal ranks."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import HeadScores, HybridWeights
from m3plugins.fusion import ranks, reciprocal_rank_fusion, weighted_sum

SCORES = st.floats(-5, 5)


@given(SCORES, SCORES, SCORES)
def test_weighted_sum_is_raw(dense, sparse, multi_vector):
    scores = HeadScores(dense=dense, sparse=sparse, multi_vector=multi_vector)
    weights = HybridWeights(dense=0.15, sparse=0.5, multi_vector=0.35)
    assert weighted_sum(scores, weights) == pytest.approx(0.15 * dense + 0.5 * sparse + 0.35 * multi_vector)


def test_a_head_that_was_not_scored_or_does_not_count_adds_nothing():
    assert weighted_sum(HeadScores(dense=0.5), HybridWeights()) == 0.5
    assert weighted_sum(HeadScores(dense=0.5, sparse=9.0), HybridWeights(sparse=0)) == 0.5


def test_weights_name_their_heads_in_order():
    assert HybridWeights(dense=0).heads == ("sparse", "multi_vector")


@pytest.mark.parametrize("weights", [{"dense": -1}, {"sparse": float("nan")}, {"multi_vector": float("inf")}])
def test_negative_or_infinite_weights_are_refused(weights):
    with pytest.raises(ValueError, match="finite number >= 0"):
        HybridWeights(**weights)


@pytest.mark.parametrize("weight", ["1", None, True, [1.0], 1j])
def test_weights_that_are_no_numbers_are_refused(weight):
    for signal in ("dense", "bm25"):
        with pytest.raises(TypeError, match=f"weight of {signal} must be a number, got .*; 0 leaves {signal} out"):
            HybridWeights(**{signal: weight})


@pytest.mark.parametrize("one", [1, np.float32(1), np.int64(1), Fraction(1)])
def test_weights_may_be_any_kind_of_real_number(one):
    scores = HeadScores(dense=0.5, sparse=0.25)
    assert weighted_sum(scores, HybridWeights(dense=one)) == weighted_sum(scores, HybridWeights(dense=1.0))


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="at least one of the heads"):
        HybridWeights(dense=0, sparse=0, multi_vector=0)


def test_float_noise_is_a_tie_and_a_small_difference_is_not():
    assert ranks([1e-9, 3e-9, 2e-9]) == [3, 1, 2]
    assert ranks([2.0, 2.0 + 1e-7, 2.0 + 1e-5]) == [2, 2, 1]
    steps = [1 + 0.9e-6 * i for i in range(5)]  # ties do not chain
    assert ranks(steps)[0] > ranks(steps)[-1]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.integers(0, 100))
def test_reciprocal_ranks_of_one_head_keep_its_order_and_its_ties(column, k):
    fused = reciprocal_rank_fusion([column], k=k)
    for i, left in enumerate(column):
        assert fused[i] == pytest.approx(1 / (k + 1 + sum(score > left for score in column)))


@given(
    st.lists(st.tuples(*[st.none() | st.integers(-5, 5)] * 3), min_size=1, max_size=20),
    st.tuples(*[st.floats(0, 5)] * 3),
)
def test_each_list_adds_its_weight_by_rank_and_nothing_for_who_is_absent(rows, weights):
    columns = list(zip(*rows, strict=True))
    fused = reciprocal_rank_fusion(columns, weights=weights)
    for i, row in enumerate(rows):
        expected = 0.0
        for column, weight, score in zip(columns, weights, row, strict=True):
            if score is not None:
                expected += weight / (61 + sum(other > score for other in column if other is not None))
        assert fused[i] == pytest.approx(expected)


def test_reciprocal_rank_fusion_refuses_ragged_columns():
    with pytest.raises(ValueError, match="same documents"):
        reciprocal_rank_fusion([[1.0], [1.0, 2.0]])


def test_reciprocal_rank_fusion_needs_one_weight_a_list():
    with pytest.raises(ValueError, match="one weight a list, got 1 for 2"):
        reciprocal_rank_fusion([[1.0], [2.0]], weights=[1.0])
