"""Retrieval quality: collections in the BEIR layout, measures, and M3's five rows of a table."""

try:
    import ir_measures  # noqa: F401
except ImportError as err:
    msg = 'm3plugins.evaluation needs ir-measures; pip install "m3plugins[evaluation]"'
    raise ImportError(msg) from err

from m3plugins.evaluation.dataset import Dataset, DatasetError
from m3plugins.evaluation.evaluating import Evaluation, Row, evaluate
from m3plugins.evaluation.measures import MEASURES, Measurement, measure
from m3plugins.evaluation.runs import ROWS, Run, rank_rows

__all__ = [
    "MEASURES",
    "ROWS",
    "Dataset",
    "DatasetError",
    "Evaluation",
    "Measurement",
    "Row",
    "Run",
    "evaluate",
    "measure",
    "rank_rows",
]
