"""Properties of a dataset's examples as arrays, by which batches are planned."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3plugins.training.data.examples import Example


@dataclass(frozen=True, eq=False)
class Columns:
    """Properties of n examples.

    Attributes:
        sizes: (n, 3) int64, `Example.sizes` of each.
        half_batches: (n,) bool, True for examples whose batches have half as many queries.
        prompted: (n,) bool, True for queries with a prompt of their own.
        source_of: (n,) int64, position of each example's source in `source_names`.
        source_names: Names of the sources.
        prompts: Different prompts of the queries; "" if some have none.
        has_scores: True if every example has a teacher's scores.
    """

    sizes: NDArray[np.int64]
    half_batches: NDArray[np.bool_]
    prompted: NDArray[np.bool_]
    source_of: NDArray[np.int64]
    source_names: tuple[str, ...]
    prompts: frozenset[str]
    has_scores: bool

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Columns:
        """Reads the properties of a stream of examples."""
        sizes, half_batches, prompted, source_of = array("q"), array("b"), array("b"), array("q")
        positions: dict[str, int] = {}
        prompts: set[str] = set()
        has_scores = True
        for example in examples:
            sizes.extend(example.sizes)
            half_batches.append(example.half_batch)
            prompted.append(example.prompt != "")
            source_of.append(positions.setdefault(example.source, len(positions)))
            prompts.add(example.prompt)
            has_scores = has_scores and example.has_scores
        return cls(
            sizes=np.array(sizes, np.int64).reshape(-1, 3),
            half_batches=np.array(half_batches, np.bool_),
            prompted=np.array(prompted, np.bool_),
            source_of=np.array(source_of, np.int64),
            source_names=tuple(positions),
            prompts=frozenset(prompts),
            has_scores=has_scores,
        )

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Joins properties in order; sources of one name become one."""
        names = dict.fromkeys(name for part in parts for name in part.source_names)
        position = {name: number for number, name in enumerate(names)}
        positions = [np.array([position[name] for name in part.source_names], np.int64) for part in parts]
        return cls(
            sizes=np.concatenate([part.sizes for part in parts]),
            half_batches=np.concatenate([part.half_batches for part in parts]),
            prompted=np.concatenate([part.prompted for part in parts]),
            source_of=np.concatenate([own[part.source_of] for own, part in zip(positions, parts, strict=True)]),
            source_names=tuple(names),
            prompts=frozenset().union(*(part.prompts for part in parts)),
            has_scores=all(part.has_scores for part in parts),
        )
