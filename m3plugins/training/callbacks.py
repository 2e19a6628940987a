"""Callbacks that measure a model in training on fixed texts: collapse of the sparse head, drift of all heads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.encoding.sparse import SparseVector
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, load_tokenizer
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.sampling import Draw
from m3plugins.training.model.live_encoder import live_encoder
from m3plugins.training.model.m3_model import M3Model

logger = logging.getLogger(__name__)

PASSAGES = 64
"""Number of passages of the training data that are measured where no texts are given."""


class Probe(TrainerCallback):
    """Measures the model in training on fixed texts and adds the figures to the logs. Subclasses define them.

    It measures with the first log, with the first one after every further `every` steps, and with that of the last
    step. Training continues as if it had not: the model runs without dropout, and its mode and the random numbers
    are restored. Every process measures the same model, so that all of them stop or none does.

    Args:
        texts: Texts to encode, as passages; None takes positives from all over the training data.
        every: Number of steps between two measurements.

    Attributes:
        texts: Texts to encode.

    Raises:
        TypeError: If `texts` is a single string.
        ValueError: If there is no text, or `every` is not positive.
    """

    def __init__(self, texts: Sequence[str] | None = None, *, every: int = 100) -> None:
        if isinstance(texts, str):
            msg = "texts must be a list of strings, got one string; put it in a list"
            raise TypeError(msg)
        if texts is not None and not len(texts):
            msg = "texts must hold at least one text, got none; leave it out to take passages of the training data"
            raise ValueError(msg)
        if every < 1:
            msg = f"every must be at least 1 step, got {every}"
            raise ValueError(msg)
        self.texts: Sequence[str] = texts or ()
        self._every, self._due = every, 0

    def start(self, encoder: M3Encoder) -> None:
        """Prepares for the first step; `M3Encoder(encoder.model, encoder.options)` is the model before any training.

        Args:
            encoder: Encoder that runs the model in training, as it is at each call.
        """

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """Returns the figures to log, by name."""
        raise NotImplementedError

    def judge(self, found: Mapping[str, float], state: TrainerState, control: TrainerControl) -> None:
        """Acts on the figures measured; `control.should_training_stop = True` ends the training."""

    def on_train_begin(
        self, args: SelfDistillationArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Chooses the texts and prepares the encoder."""
        model: M3Model = kwargs["model"]
        drawn = kwargs["train_dataloader"].dataset
        if not self.texts:
            rows = np.linspace(0, len(drawn) - 1, min(PASSAGES, len(drawn)), dtype=np.int64)
            self.texts = [drawn[Draw(0, int(row))].passages[0] for row in rows]
        self._due = 0
        for logged in state.log_history:  # of the part before a resumption
            if "loss" in logged and logged["step"] >= self._due:
                self._due = self._next(logged["step"])
        folder, device, length = model.checkpoint.folder, str(args.device), args.passage_max_length
        with _undisturbed(model, args.device):
            self._encoder = live_encoder(
                model, M3Encoder.from_pretrained(folder, devices=device, document_max_length=length)
            )
            self.start(self._encoder)

    def on_log(
        self, args: SelfDistillationArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures, if it is time to."""
        logs, model = kwargs["logs"], kwargs["model"]
        if "loss" not in logs or state.global_step < min(self._due, state.max_steps):
            return
        self._due = self._next(state.global_step)
        with _undisturbed(model, args.device):
            found = self.measure(self._encoder)
        logs.update(found)
        state.log_history[-1].update(found)
        self.judge(found, state, control)

    def _next(self, step: int) -> int:
        return (step // self._every + 1) * self._every


class SparseCollapseAlarm(Probe):
    """Warns when the sparse head stops telling tokens apart, which the loss of the ensemble need not show.

    It logs `sparse_empty`, the share of the texts without a positive weight, and `sparse_entropy`: the entropy of the
    weights of a text's distinct tokens over its maximum, on average; 1 is all tokens alike, 0 is one token alone.

    Args:
        texts: Texts to encode, as for `Probe`.
        max_empty: Share of empty texts above which the head has collapsed.
        min_entropy: Entropy below which it has collapsed.
        max_entropy: Entropy above which it has collapsed.
        every: Number of steps between two measurements.
        stop: End the training at a collapse.

    Raises:
        ValueError: If a limit is not from 0 to 1, or as for `Probe`.
    """

    def __init__(
        self,
        texts: Sequence[str] | None = None,
        *,
        max_empty: float = 0.1,
        min_entropy: float = 0.1,
        max_entropy: float = 0.999,
        every: int = 100,
        stop: bool = False,
    ) -> None:
        super().__init__(texts, every=every)
        for name, value in {"max_empty": max_empty, "min_entropy": min_entropy, "max_entropy": max_entropy}.items():
            if not 0 <= value <= 1:
                msg = f"{name} must be from 0 to 1, got {value}"
                raise ValueError(msg)
        self._max_empty, self._entropy, self._stop = max_empty, (min_entropy, max_entropy), stop
        self._collapsed = False

    def start(self, encoder: M3Encoder) -> None:
        """Counts the distinct tokens of each text that may have a weight."""
        tokenizer, special = load_tokenizer(encoder.checkpoint.folder)
        texts = TextTokenizer(tokenizer, Layout(encoder.document_max_length)).tokenize(list(self.texts))
        self._tokens = [len(set(text.ids.tolist()) - special.ids) for text in texts]

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """Returns `sparse_empty` and `sparse_entropy`."""
        rows = list(_encode(encoder, self.texts, ("sparse",)).sparse or ())
        pairs = [(row, tokens) for row, tokens in zip(rows, self._tokens, strict=True) if len(row) and tokens > 1]
        entropies = [_entropy(row.values) / np.log(tokens) for row, tokens in pairs]
        empty = sum(not len(row) for row in rows) / len(rows)
        return {"sparse_empty": empty, "sparse_entropy": float(np.mean(entropies)) if entropies else 0.0}

    def judge(self, found: Mapping[str, float], state: TrainerState, control: TrainerControl) -> None:
        """Warns at the onset of a collapse."""
        empty, entropy, (least, most) = found["sparse_empty"], found["sparse_entropy"], self._entropy
        before, self._collapsed = self._collapsed, empty > self._max_empty or not least <= entropy <= most
        if self._collapsed and not before and state.is_world_process_zero:
            logger.warning(
                "the sparse head has collapsed at step %d: sparse_empty is %.2f (at most %g), sparse_entropy %.4f "
                "(from %g to %g); lower head_learning_rate, or raise the sparse head's temperature or loss weight%s",
                *(state.global_step, empty, self._max_empty, entropy, least, most),
                "; training stops" if self._stop else "",
            )
        control.should_training_stop |= self._collapsed and self._stop


class Drift(Probe):
    """Logs how far each head has moved from the model that training started from: 0 is unmoved.

    `drift_dense`, `drift_sparse` and `drift_multi_vector` are 1 less the mean cosine of then and now, of a text's
    dense vectors, of its sparse vectors, and of a token's vectors. In a resumed run "then" is before its first part.
    """

    def start(self, encoder: M3Encoder) -> None:
        """Encodes the texts with the model before any training, which is in memory only meanwhile."""
        self._then = _encode(M3Encoder(encoder.model, encoder.options), self.texts)

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """Returns the drift of each head."""
        then, now = self._then, _encode(encoder, self.texts)
        similarity = {}
        if then.dense is not None and now.dense is not None:
            similarity["dense"] = (then.dense * now.dense).sum(1)
        if then.sparse is not None and now.sparse is not None:
            similarity["sparse"] = np.array([_cosine(*pair) for pair in zip(then.sparse, now.sparse, strict=True)])
        if then.multi_vector is not None and now.multi_vector is not None:
            similarity["multi_vector"] = (then.multi_vector.vectors * now.multi_vector.vectors).sum(1)
        return {f"drift_{head}": 1 - float(values.mean()) for head, values in similarity.items()}


@contextmanager
def _undisturbed(model: M3Model, device: torch.device) -> Iterator[None]:
    """Runs the block with the model in evaluation mode; restores its mode and the random state afterwards."""
    training = model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # loading a model draws some
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def _encode(encoder: M3Encoder, texts: Sequence[str], heads: Sequence[Head] = HEADS) -> M3Output:
    """Encodes texts; unlike `encode_documents`, it does not warn each time that texts are cut."""
    return M3Output.concatenate(list(encoder.iter_documents(texts, heads=heads)))


def _entropy(weights: NDArray[np.float32]) -> float:
    shares = weights.astype(np.float64) / weights.sum()
    return float(-(shares * np.log(shares)).sum())


def _cosine(then: SparseVector, now: SparseVector) -> float:
    if not len(then) or not len(now):
        return float(len(then) == len(now))
    _, left, right = np.intersect1d(then.indices, now.indices, assume_unique=True, return_indices=True)
    norms = np.linalg.norm(then.values) * np.linalg.norm(now.values)
    return float(then.values[left] @ now.values[right] / norms)
