"""Measures of a run, by ir-measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures

from m3plugins.evaluation.runs import Run

MEASURES = ("nDCG@10", "R@100")


@dataclass(frozen=True)
class Measurement:
    """The values of a measure for a run.

    Attributes:
        measure: Name of the measure, as ir-measures has it: "nDCG@10".
        per_query: Value for every judged query, by query id.
    """

    measure: str
    per_query: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The macro mean: every query counts the same."""
        return math.fsum(self.per_query.values()) / len(self.per_query)


def measure(
    run: Run, qrels: Mapping[str, Mapping[str, int]], measures: Sequence[str] = MEASURES
) -> dict[str, Measurement]:
    """Measures a run against judgements.

    Args:
        run: Document ids by query id, best first. A judged query that is missing found nothing: it scores 0.
        qrels: Relevance by document id, by query id.
        measures: Names that ir-measures knows.

    Raises:
        ValueError: If there are no judgements.

    Example:
        >>> found = measure({"q": ["b", "a"]}, {"q": {"a": 1}})  # relevant at rank 2: 1 / log2(3)
        >>> {name: round(value.mean, 4) for name, value in found.items()}
        {'nDCG@10': 0.6309, 'R@100': 1.0}
    """
    if not qrels:
        msg = "qrels must judge at least one query, got none"
        raise ValueError(msg)
    # Whole-number scores keep the run's own order: trec_eval reads float32 and breaks ties its own way.
    scored = {
        query_id: {document_id: float(len(ids) - rank) for rank, document_id in enumerate(ids)}
        for query_id, ids in run.items()
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    parsed = {ir_measures.parse_measure(name): name for name in measures}
    for metric in ir_measures.iter_calc(list(parsed), qrels, scored):
        values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return {name: Measurement(name, per_query) for name, per_query in values.items()}
