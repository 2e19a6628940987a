"""How good the model is while it is trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from m3plugins.encoding.backends.torch import TorchBackend
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.encoding.tokenizing import load_tokenizer
from m3plugins.evaluation.dataset import Dataset
from m3plugins.training.data.collator import Draws
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.loss.grad_cache import Chunks
from m3plugins.training.model.m3_model import M3Model
from m3plugins.training.data.sampling import Draw

if TYPE_CHECKING:
    from m3plugins.training.trainer import SelfDistillationTrainer

DevelopmentSet = Dataset | M3Dataset
"""A BEIR collection with judgements, or pairs like those trained on."""

_ROWS = {"dense": "dense", "sparse": "sparse", "multi-vector": "multi_vector", "D+S": "ds", "All": "all"}


def live_encoder(model: M3Model, encoder: M3Encoder) -> M3Encoder:
    """An encoder that runs a model in training, as it is at each call, with the settings of another encoder.

    Its prompts are those that the model is trained with, its fingerprint is of the checkpoint that training started
    from.
    """
    model.eval()
    _, special = load_tokenizer(encoder.checkpoint.folder)
    backend = TorchBackend(
        model.encoder,
        sparse=model.sparse_linear,
        multi_vector=model.colbert_linear,
        pooling=model.checkpoint.pooling,
        pad_id=special.pad,
    )
    prompts = model.prompts
    options = replace(encoder.options, query_prompt=prompts.query, document_prompt=prompts.document)
    return M3Encoder(encoder.model, options, loaded=LoadedModel(encoder.checkpoint, options, [backend]))


def evaluate_model(trainer: SelfDistillationTrainer, dataset: Any, prefix: str) -> dict[str, float]:
    """The metrics of one development set, or of several by name and their means."""
    if not isinstance(dataset, Mapping):
        return _evaluate(trainer, dataset, prefix)
    metrics, together = {}, defaultdict(list)
    for name, part in dataset.items():
        for key, value in _evaluate(trainer, part, "").items():
            metrics[f"{prefix}_{name}{key}"] = value
            together[key].append(value)
    return metrics | {f"{prefix}{key}": fmean(values) for key, values in together.items()}


def _evaluate(trainer: SelfDistillationTrainer, dataset: object, prefix: str) -> dict[str, float]:
    if isinstance(dataset, Dataset):
        return _retrieval(trainer, dataset, prefix)
    if isinstance(dataset, M3Dataset):
        return _losses(trainer, dataset, prefix)
    msg = f"eval_dataset must be an evaluation.Dataset, an M3Dataset or a mapping of them, got {type(dataset).__name__}"
    raise TypeError(msg)


def _retrieval(trainer: SelfDistillationTrainer, dataset: Dataset, prefix: str) -> dict[str, float]:
    from m3plugins.evaluation import evaluate
    from m3plugins.retrieval.memory import InMemoryHybridIndex

    # No codec: it is the model that is measured.
    index = InMemoryHybridIndex(encoder=live_encoder(trainer.model, trainer.encoder), codec=None)
    report = index.upsert(dataset.documents())
    if report.failed:
        name, reason = report.failed[0]
        msg = f"{len(report.failed)} documents of {dataset.folder} cannot be indexed, such as {name}: {reason}"
        raise ValueError(msg)
    rows = evaluate(index, dataset, measures=("nDCG@10",)).means()
    return {f"{prefix}_{_ROWS[row]}_ndcg@10": values["nDCG@10"] for row, values in rows.items()}


@torch.no_grad()
def _losses(trainer: SelfDistillationTrainer, dataset: M3Dataset, prefix: str) -> dict[str, float]:
    """The mean losses over batches in the order of the data, as in training but without dropout."""
    args, model = trainer.args, trainer.model.eval()
    collate = trainer.collator_of(dataset)
    draws, size = Draws(dataset, negatives=args.negatives, seed=args.seed), args.per_device_eval_batch_size
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, len(dataset), size):
        rows = range(start, min(start + size, len(dataset)))
        batch = collate([draws[Draw(0, row)] for row in rows]).to(args.device)
        chunks = Chunks.cut(batch, trainer.chunk_tokens or 4096)
        with trainer.accelerator.autocast():
            pair = chunks.join([part for texts in chunks.texts for part in model([texts])])
        loss = trainer.loss(chunks, pair)
        for name, value in {"loss": loss.total, **{f"loss_{k}": v for k, v in loss.terms.items()}}.items():
            sums[name] += float(value) * len(rows)
    return {f"{prefix}_{name}": value / len(dataset) for name, value in sums.items()}
