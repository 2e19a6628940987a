"""Evaluation of how well an index finds what a collection's judgements call relevant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from m3plugins.evaluation.dataset import Dataset
from m3plugins.evaluation.measures import MEASURES, Measurement, measure
from m3plugins.evaluation.runs import ROWS, Run, rank_rows
from m3plugins.fusion import HybridWeights
from m3plugins.indexing.index import HybridIndex


@dataclass(frozen=True)
class Row:
    """A row of the table: one combination of heads.

    Attributes:
        name: Name of the row, a key of `ROWS`.
        weights: Weight of each head.
        run: The rankings.
        measurements: The measurements, by name of the measure.
    """

    name: str
    weights: HybridWeights
    run: Run
    measurements: Mapping[str, Measurement]


@dataclass(frozen=True)
class Evaluation:
    """A table of measurements, with a row for each combination of heads.

    Attributes:
        queries: Number of queries.
        candidates: Number of documents that each head proposed, and that the multi-vector head ranked.
        identical_ids: Number of queries that found a document of their own id, which was left out.
        rows: The rows by name, in the order of `ROWS`.
    """

    queries: int
    candidates: int
    identical_ids: int
    rows: Mapping[str, Row]

    def means(self) -> dict[str, dict[str, float]]:
        """The macro means, by row and measure."""
        return {name: {m: found.mean for m, found in row.measurements.items()} for name, row in self.rows.items()}


def evaluate(
    index: HybridIndex,
    dataset: Dataset,
    *,
    measures: Sequence[str] = MEASURES,
    k: int = 100,
    candidates: int = 200,
    ignore_identical_ids: bool = True,
    progress: bool = False,
) -> Evaluation:
    """Runs a collection's queries and measures dense, sparse, multi-vector, D+S and All.

    Queries are encoded once for all rows. The multi-vector head proposes no documents: its row (and All)
    re-ranks what dense and sparse propose, as in the paper, which re-ranks 200; where `candidates`
    reaches the size of the corpus, every row is exact. An index made with `passages` is measured by documents:
    each ranks where its best passage does.

    Args:
        index: Holds the collection's documents, under the collection's ids.
        dataset: The queries and judgements.
        measures: Names that ir-measures knows.
        k: Length of a ranking; no measure should look deeper.
        candidates: See `rank_rows`.
        ignore_identical_ids: Leave out, for each query, the document of the query's own id, as BEIR does: in ArguAna
            and Quora it is the query itself. False for a collection that numbers queries and documents alike (CACM).
        progress: Show a progress bar.

    Raises:
        ValueError: If `k` or `candidates` is not positive.
    """
    for name, value in {"k": k, "candidates": candidates}.items():
        if value < 1:
            msg = f"{name} must be a positive integer, got {value}"
            raise ValueError(msg)
    found: dict[str, dict[str, list[str]]] = {row: {} for row in ROWS}
    identical: set[str] = set()
    embedded = (query for output in index.encoder.iter_queries(dataset.queries.values()) for query in output)
    pairs = zip(dataset.queries, embedded, strict=True)
    for query_id, query in tqdm(pairs, "searching", len(dataset.queries), unit="query", disable=not progress):
        ignored = query_id if ignore_identical_ids else None
        for row, ids in rank_rows(index, query, k=k + (ignored is not None), candidates=candidates).items():
            found[row][query_id] = [i for i in ids if i != ignored][:k]
            if ignored in ids[:k]:
                identical.add(query_id)
    rows = {name: Row(name, ROWS[name], run, measure(run, dataset.qrels, measures)) for name, run in found.items()}
    return Evaluation(len(dataset.queries), candidates, len(identical), rows)
