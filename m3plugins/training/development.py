"""Evaluation of a model while it is trained, on development sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.evaluation.dataset import Dataset
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.batch import Batch
from m3plugins.training.data.collator import Draws, M3Collator
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.sampling import Draw
from m3plugins.training.loss.joint import M3Loss

DevelopmentSet = Dataset | M3Dataset
"""A BEIR collection with judgements, or pairs like those trained on."""

_ROWS = {"dense": "dense", "sparse": "sparse", "multi-vector": "multi_vector", "D+S": "ds", "All": "all"}


@dataclass(frozen=True)
class Evaluator:
    """Measures a model on collections and on pairs.

    Attributes:
        args: Settings of the run.
        encoder: Encoder that runs the model as it is.
        collator_of: Function that returns what makes batches of a dataset.
        loss_of: Loss of a batch, without dropout.
    """

    args: SelfDistillationArguments
    encoder: M3Encoder
    collator_of: Callable[[M3Dataset], M3Collator]
    loss_of: Callable[[Batch], M3Loss]

    def evaluate(self, dataset: Any, prefix: str) -> dict[str, float]:
        """Returns the metrics of one development set, or of several by name and their means.

        Raises:
            TypeError: A set is of another kind.
            ValueError: A document of a collection cannot be indexed.
        """
        if not isinstance(dataset, Mapping):
            return self._evaluate(dataset, prefix)
        metrics, together = {}, defaultdict(list)
        for name, each in dataset.items():
            for key, value in self._evaluate(each, "").items():
                metrics[f"{prefix}_{name}{key}"] = value
                together[key].append(value)
        return metrics | {f"{prefix}{key}": fmean(values) for key, values in together.items()}

    def _evaluate(self, dataset: object, prefix: str) -> dict[str, float]:
        if isinstance(dataset, Dataset):
            return self._retrieval(dataset, prefix)
        if isinstance(dataset, M3Dataset):
            return self._losses(dataset, prefix)
        got = type(dataset).__name__
        msg = f"eval_dataset must be an evaluation.Dataset, an M3Dataset or a mapping of them, got {got}"
        raise TypeError(msg)

    def _retrieval(self, dataset: Dataset, prefix: str) -> dict[str, float]:
        from m3plugins.evaluation import evaluate
        from m3plugins.indexing.in_memory import InMemoryHybridIndex

        # No codec: it is the model that is measured.
        index = InMemoryHybridIndex(encoder=self.encoder, codec=None)
        report = index.upsert(dataset.documents())
        if report.failed:
            name, reason = report.failed[0]
            msg = f"{len(report.failed)} documents of {dataset.folder} cannot be indexed, such as {name}: {reason}"
            raise ValueError(msg)
        rows = evaluate(index, dataset, measures=("nDCG@10",)).means()
        return {f"{prefix}_{_ROWS[row]}_ndcg@10": values["nDCG@10"] for row, values in rows.items()}

    @torch.no_grad()
    def _losses(self, dataset: M3Dataset, prefix: str) -> dict[str, float]:
        """Mean losses over batches in the order of the data."""
        args, collate = self.args, self.collator_of(dataset)
        draws, size = Draws(dataset, negatives=args.negatives, seed=args.seed), args.per_device_eval_batch_size
        sums: dict[str, float] = defaultdict(float)
        for start in range(0, len(dataset), size):
            rows = range(start, min(start + size, len(dataset)))
            loss = self.loss_of(collate([draws[Draw(0, row)] for row in rows]))
            for name, value in {"loss": loss.total, **{f"loss_{k}": v for k, v in loss.terms.items()}}.items():
                sums[name] += float(value) * len(rows)
        return {f"{prefix}_{name}": value / len(dataset) for name, value in sums.items()}
