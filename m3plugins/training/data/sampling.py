"""Batches of examples of similar length, within a token budget, planned alike on every process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

SPREAD = 1.5
"""Maximum ratio of the longest to the shortest example in a bucket of many examples."""


class Draw(NamedTuple):
    """The epoch in which an example is drawn, and its row in the dataset."""

    epoch: int
    row: int


class LengthGroupedBatches(Sampler[list[Draw]]):
    """Batches of examples of similar length, shuffled by seed and epoch alone.

    Each process passes its own rank and gets its part of every global batch, as many queries as the others. The
    examples are cut, longest first, into buckets of at least one global batch each. A bucket's batches are of equal
    size, give or take one query a device. Every example comes once an epoch; where a bucket does not divide evenly
    among the processes, up to `world_size - 1` of its examples come again.

    Args:
        lengths: Estimated tokens of each example with all its passages, (n,) integer.
        sources: Source of each example, (n,) integer; see `same_source`.
        batch_size: Maximum number of queries per device and batch.
        token_budget: Maximum number of tokens per device and batch, each example counted as long as the longest of its
            bucket. An example over it is a batch of its own. None for no limit.
        same_source: Draw every global batch from one source.
        halved: True for examples whose batches have half as many queries, (n,) bool; needs `same_source`.
        seed: Seed of the shuffling.
        rank: Rank of this process.
        world_size: Number of processes.
        drop_last: Leave out, every epoch anew, examples that do not fill a global batch of their bucket.

    Raises:
        ValueError: If an argument is out of its range, or `drop_last` leaves nothing.

    Example:
        >>> lengths, sources = np.array([9, 1, 8, 1, 1, 1]), np.zeros(6, np.int64)
        >>> batches = LengthGroupedBatches(lengths, sources, batch_size=4, token_budget=18)
        >>> sorted(sorted(int(lengths[draw.row]) for draw in batch) for batch in batches)
        [[1, 1, 1, 1], [8, 9]]
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        sources: NDArray[np.int64],
        *,
        batch_size: int,
        token_budget: int | None = None,
        same_source: bool = True,
        halved: NDArray[np.bool_] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("world_size", world_size, 1)
        _check_at_least("seed", seed, 0)
        if token_budget is not None:
            _check_at_least("token_budget", token_budget, 1)
        if not 0 <= rank < world_size:
            msg = f"rank must be from 0 to {world_size - 1}, below world_size, got {rank}"
            raise ValueError(msg)
        if not len(lengths) or np.shape(lengths) != np.shape(sources):
            msg = f"lengths and sources must be of the same n >= 1 examples, got {len(lengths)} and {len(sources)}"
            raise ValueError(msg)
        self._seed, self._rank, self._world_size, self._epoch = seed, rank, world_size, 0
        self._token_budget = token_budget
        halved = np.zeros(len(lengths), np.bool_) if halved is None or not same_source else halved
        groups = 2 * (sources if same_source else np.zeros(len(lengths), np.int64)) + halved
        self._buckets: list[_Bucket] = []
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            rows = rows[np.argsort(-lengths[rows], kind="stable")]
            most = max(1, batch_size // 2) if group % 2 else batch_size
            self._buckets += self._cut(rows, lengths[rows], most, drop_last)
        if never := sum(len(bucket.rows) for bucket in self._buckets if not bucket.batches):
            logger.warning("%d examples are never drawn: drop_last, and they fill no global batch", never)
        if not len(self):
            msg = f"drop_last leaves no batch of {batch_size} queries on {world_size} devices; lower batch_size"
            raise ValueError(msg)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the shuffling that the next iteration follows."""
        _check_at_least("epoch", epoch, 0)
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(bucket.batches for bucket in self._buckets)

    def __iter__(self) -> Iterator[list[Draw]]:
        random, epoch = np.random.default_rng((self._seed, self._epoch)), self._epoch
        steps = []
        for bucket in self._buckets:
            rows = np.resize(random.permutation(bucket.rows), (bucket.shares, self._world_size))
            steps += np.array_split(rows, bucket.batches) if bucket.batches else []
        for step in random.permutation(len(steps)):
            yield [Draw(epoch, int(row)) for row in steps[step][:, self._rank]]

    def _cut(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, drop_last: bool
    ) -> list[_Bucket]:
        """Cuts rows that come longest first into buckets, for batches of at most `batch_size` queries.

        A bucket takes the rows up to `SPREAD` times shorter than its longest and, until it fills a global batch, the
        next longest too. Rows left at the end that fill no global batch join the last bucket. So one long example
        makes only its own global batch small.
        """
        buckets, start = [], 0
        while start < len(rows):
            size = self._size(int(lengths[start]), batch_size)
            similar = np.searchsorted(-lengths, -lengths[start] / SPREAD, side="right")
            end = max(int(similar), start + size * self._world_size)
            following = self._size(int(lengths[min(end, len(rows) - 1)]), batch_size)
            if len(rows) - end < following * self._world_size:
                end = len(rows)
            if drop_last:
                batches = (end - start) // (size * self._world_size)
                shares = batches * size
            else:
                shares = -(-(end - start) // self._world_size)
                batches = -(-shares // size)
            buckets.append(_Bucket(rows[start:end], shares, batches))
            start = end
        return buckets

    def _size(self, length: int, batch_size: int) -> int:
        """Returns the queries per device in a bucket whose longest example has this length."""
        if self._token_budget is None:
            return batch_size
        return min(batch_size, max(1, self._token_budget // max(1, length)))


class _Bucket(NamedTuple):
    """Rows of similar length, the number of queries that each process gets of them in an epoch, and of batches."""

    rows: NDArray[np.int64]
    shares: int
    batches: int


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        msg = f"{name} must be at least {least}, got {value}"
        raise ValueError(msg)
