"""The bootstrap over seeds and queries: exact where there is no chance, wide where seeds or queries differ."""

from __future__ import annotations

import numpy as np
import pytest

from m3plugins.evaluation.significance import bootstrap_interval


def width(values: list[np.ndarray]) -> float:
    found = bootstrap_interval(values)
    return found.high - found.low


def test_the_mean_is_of_the_collections_whatever_their_sizes() -> None:
    found = bootstrap_interval([np.full((2, 3), 1.0), np.full((2, 100), 0.0)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_queries_alone_give_the_interval_of_their_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=(1, 400))
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert width([values]) == pytest.approx(expected, rel=0.06)


def test_seeds_that_differ_widen_the_interval_though_every_query_agrees() -> None:
    """Averaging over the seeds first, as an interval over queries does, would see no chance at all."""
    seeds = np.linspace(-1, 1, 20)[:, None]
    values = np.repeat(seeds, 50, axis=1)
    assert width([values.mean(0, keepdims=True)]) == pytest.approx(0)
    assert width([values]) == pytest.approx(2 * 1.96 * seeds.std() / np.sqrt(20), rel=0.06)


def test_variances_of_seeds_and_of_queries_add_up() -> None:
    random = np.random.default_rng(2)
    values = random.normal(size=(20, 1)) + random.normal(size=(1, 200)) * 4
    seeds, queries = values.mean(1).std() / np.sqrt(20), values.mean(0).std() / np.sqrt(200)
    assert width([values]) == pytest.approx(2 * 1.96 * np.hypot(seeds, queries), rel=0.06)


def test_collections_share_their_seeds() -> None:
    """A seed that is lucky on one is lucky on both, which would cancel out if each drew its own."""
    seeds = np.repeat(np.linspace(-1, 1, 20)[:, None], 30, axis=1)
    assert width([seeds, -seeds]) == pytest.approx(0, abs=1e-9)
    assert width([seeds, seeds]) == pytest.approx(width([seeds]), rel=1e-9)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(3), 0
    for trial in range(100):
        values = random.normal(size=(15, 1)) * 0.3 + random.normal(size=(1, 60)) + random.normal(size=(15, 60))
        found = bootstrap_interval([values], seed=trial)
        hits += found.low <= 0 <= found.high
    assert hits >= 88


def test_resamples_in_blocks_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.random.default_rng(4).normal(size=(3, queries)) for queries in (40, 70)]
    whole = bootstrap_interval(values)
    monkeypatch.setattr("m3plugins.evaluation.significance._BLOCK", 70 * 301)
    found = bootstrap_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((whole.mean, whole.low, whole.high), rel=1e-12)


@pytest.mark.parametrize(
    "values", [[], [np.zeros(3)], [np.zeros((0, 3))], [np.zeros((2, 0))], [np.zeros((2, 3)), np.zeros((3, 3))]]
)
def test_values_of_another_shape_are_refused(values: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"values must be arrays \(seeds, queries\)"):
        bootstrap_interval(values)
