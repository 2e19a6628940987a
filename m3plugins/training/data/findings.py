"""Faults of training data, counted and reported together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from m3plugins.evaluation.dataset import DatasetError
from m3plugins.training.data.examples import Example

REASONS_SHOWN = 10


@dataclass
class Findings:
    """Wrong examples, and what was left out of the others.

    Attributes:
        dropped: Number of negatives left out: blank, repeated or also positives.
        wrong: Number of places that hold no example.
        reasons: Reasons for the first of them.
    """

    dropped: int = 0
    wrong: int = 0
    reasons: list[str] = field(default_factory=list)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Notes a ValueError that the block raises, and suppresses it."""
        try:
            yield
        except ValueError as err:
            self.wrong += 1
            if self.wrong <= REASONS_SHOWN:
                self.reasons.append(f"{place}: {err}")

    def distinct(self, example: Example) -> Example:
        """Returns `Example.distinct`, and counts what it drops."""
        distinct = example.distinct()
        self.dropped += len(example.negatives) - len(distinct.negatives)
        return distinct

    def check(self) -> None:
        """Refuses wrong examples.

        Raises:
            DatasetError: If there were any.
        """
        if self.wrong:
            count = "1 example is" if self.wrong == 1 else f"{self.wrong} examples are"
            further = [f"and {self.wrong - REASONS_SHOWN} more"] if self.wrong > REASONS_SHOWN else []
            raise DatasetError("\n".join([f"{count} wrong:", *self.reasons, *further]))
