"""Batches by length: every example, evenly over the processes, within the budget, the same everywhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins.training.data.sampling import SPREAD, Draw, LengthGroupedBatches


@dataclass(frozen=True)
class Case:
    lengths: np.ndarray
    sources: np.ndarray
    options: dict[str, Any]

    @property
    def world_size(self) -> int:
        return int(self.options["world_size"])

    def sampler(self, rank: int = 0, epoch: int = 0, **options: Any) -> LengthGroupedBatches:
        sampler = LengthGroupedBatches(self.lengths, self.sources, **{**self.options, **options}, rank=rank)
        sampler.set_epoch(epoch)
        return sampler

    def steps(self, epoch: int = 0, **options: Any) -> list[list[list[int]]]:
        """Rows by step and rank."""
        ranks = [list(self.sampler(rank, epoch, **options)) for rank in range(self.world_size)]
        return [[[draw.row for draw in batch] for batch in step] for step in zip(*ranks, strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    examples = draw(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 2)), min_size=1, max_size=80))
    lengths, sources = np.array(examples).T
    options = st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 8),
            "token_budget": st.none() | st.integers(1, 600),
            "same_source": st.booleans(),
            "world_size": st.integers(1, 4),
            "seed": st.integers(0, 3),
        }
    )
    return Case(lengths, sources, draw(options))


def flat(steps: list[list[list[int]]]) -> list[int]:
    return [row for step in steps for batch in step for row in batch]


@given(cases(), st.integers(0, 3))
def test_every_example_comes_and_few_come_twice(case: Case, epoch: int) -> None:
    counts = np.bincount(flat(case.steps(epoch)), minlength=len(case.lengths))
    assert counts.min() >= 1
    buckets = len(case.sampler()._buckets)
    assert counts.sum() - len(counts) <= buckets * (case.world_size - 1)


@given(cases())
def test_one_process_draws_every_example_once(case: Case) -> None:
    alone = Case(case.lengths, case.sources, {**case.options, "world_size": 1})
    assert sorted(flat(alone.steps())) == list(range(len(case.lengths)))


@given(cases(), st.booleans())
def test_ranks_get_equally_many_queries_and_at_least_one(case: Case, drop_last: bool) -> None:
    try:
        steps = case.steps(drop_last=drop_last)
    except ValueError:
        assert drop_last
        return
    for step in steps:
        sizes = {len(batch) for batch in step}
        assert len(sizes) == 1
        assert 1 <= sizes.pop() <= case.options["batch_size"]


@given(cases())
def test_padded_batches_keep_to_the_budget_unless_of_one_example(case: Case) -> None:
    budget = case.options["token_budget"] or np.inf
    for step in case.steps():
        for batch in step:
            assert len(batch) == 1 or len(batch) * case.lengths[batch].max() <= budget


@given(cases())
def test_a_step_is_of_one_source(case: Case) -> None:
    for step in case.steps(same_source=True):
        assert len(set(case.sources[flat([step])].tolist())) == 1


@given(cases())
def test_dropping_the_last_leaves_whole_global_batches_and_no_repetition(case: Case) -> None:
    free = {"drop_last": True, "token_budget": None, "same_source": False}
    if len(case.lengths) < case.options["batch_size"] * case.world_size:
        with pytest.raises(ValueError, match="drop_last leaves no batch"):
            case.steps(**free)
        return
    steps = case.steps(**free)
    assert {len(batch) for step in steps for batch in step} == {case.options["batch_size"]}
    assert len(flat(steps)) == len(set(flat(steps)))


@given(cases(), st.integers(0, 3))
def test_the_same_seed_and_epoch_draw_the_same(case: Case, epoch: int) -> None:
    assert list(case.sampler(epoch=epoch)) == list(case.sampler(epoch=epoch))


@given(cases(), st.booleans())
def test_the_length_is_the_same_in_every_epoch(case: Case, drop_last: bool) -> None:
    try:
        sampler = case.sampler(drop_last=drop_last)
    except ValueError:
        assert drop_last
        return
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(10, 1000, count)


def batches_of(lengths: np.ndarray, epoch: int = 0, **options: Any) -> list[list[Draw]]:
    sampler = LengthGroupedBatches(lengths, np.zeros(len(lengths), int), **options)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_makes_other_batches(other: dict[str, int]) -> None:
    def groups(**options: int) -> set[frozenset[int]]:
        return {frozenset(draw.row for draw in batch) for batch in batches_of(lengths_of(200), batch_size=8, **options)}

    assert len(groups() & groups(**other)) < 5


def test_draws_carry_their_epoch() -> None:
    assert {draw.epoch for batch in batches_of(lengths_of(20), epoch=3, batch_size=4) for draw in batch} == {3}


def test_batches_are_of_similar_length() -> None:
    lengths = lengths_of(5000)
    for batch in batches_of(lengths, batch_size=8):
        ours = lengths[[draw.row for draw in batch]]
        assert ours.max() <= SPREAD * ours.min()


def test_long_and_short_batches_alternate() -> None:
    lengths = np.array([10] * 400 + [1000] * 400)
    long = [lengths[batch[0].row] == 1000 for batch in batches_of(lengths, batch_size=8)]
    assert 20 < np.count_nonzero(np.diff(long)) < 80  # about every second of 100


def test_one_long_example_makes_no_other_batch_small() -> None:
    lengths = np.array([8192] + [100] * 1000)
    sizes = sorted(len(batch) for batch in batches_of(lengths, batch_size=32, token_budget=16_384))
    assert sizes[0] == 2
    assert sizes[1] >= 31


def test_a_remainder_is_spread_instead_of_a_tiny_last_batch() -> None:
    assert sorted(len(batch) for batch in batches_of(np.full(33, 10), batch_size=32)) == [16, 17]


def test_examples_that_are_never_drawn_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LengthGroupedBatches(np.full(11, 10), np.array([0] * 8 + [1] * 3), batch_size=4, drop_last=True)
    assert "3 examples are never drawn" in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"token_budget": 0}, "token_budget must be at least 1, got 0"),
        ({"world_size": 0}, "world_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1, below world_size, got 2"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LengthGroupedBatches(np.ones(4, int), np.zeros(4, int), **{"batch_size": 2, **options})


def test_lengths_and_sources_must_match() -> None:
    for lengths, sources in (([1, 2], [0]), ([], [])):
        with pytest.raises(ValueError, match="of the same n >= 1 examples"):
            LengthGroupedBatches(np.array(lengths), np.array(sources), batch_size=2)
