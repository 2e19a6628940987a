"""Controls in a line of FlagEmbedding's format, `type` and `train_group_size`: how to train on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Controls:
    """Deviations of an example from the settings of a run.

    Attributes:
        max_negatives: Maximum number of negatives that an epoch draws, if the run would draw more.
        half_batch: Halve the number of queries in batches of such examples.
        prompts_passages: Put the query's prompt ahead of the passages too.
    """

    max_negatives: int | None = None
    half_batch: bool = False
    prompts_passages: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Controls:
        """Reads the controls in a row, as FlagEmbedding 1.4 reads them (`AbsEmbedderSameDatasetTrainDataset`).

        Raises:
            ValueError: If a value is none that FlagEmbedding knows, or one that is not supported here.
        """
        if row.get("batch_size") is not None:
            msg = f"batch_size in a line is not supported, got {row['batch_size']!r}; take it out and set the run's"
            raise ValueError(msg)
        kind, size = row.get("type"), row.get("train_group_size")
        if not isinstance(kind, str | None):
            msg = f"type must be a string, got {kind!r:.80}"
            raise ValueError(msg)
        if kind in _TYPES:
            return _TYPES[kind]
        if kind is not None and ("symmetric" in kind or kind.startswith("only_")):
            msg = f"type must be one of {', '.join(_TYPES)}, or a label that is none of them, got {kind!r}"
            raise ValueError(msg)
        if size is None:
            return cls()
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            msg = f"train_group_size must be an integer of at least 1, the positive and the negatives, got {size!r}"
            raise ValueError(msg)
        return cls(max_negatives=size - 1)


_TYPES = {
    "only_1neg": Controls(max_negatives=1),
    "symmetric_class": Controls(half_batch=True),
    "symmetric_sts": Controls(half_batch=True, prompts_passages=True),
    "symmetric_clustering": Controls(half_batch=True, prompts_passages=True),
}
