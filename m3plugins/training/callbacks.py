"""What a training run watches on fixed texts: whether the sparse head collapses, how far the heads move.

A measurement of your own is a `Probe` of a few lines:

    class Longest(Probe):
        def measure(self, encoder):
            output = encoder.encode_documents(self.texts, heads=("sparse",))
            return {"sparse_entries": float(max(map(len, output.sparse)))}
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback, TrainerControl, TrainerState

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.sparse import SparseVector
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, load_tokenizer
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.collator import Drawn
from m3plugins.training.development import live_encoder
from m3plugins.training.model import M3Model
from m3plugins.training.sampling import Draw

logger = logging.getLogger(__name__)

PASSAGES = 64
"""Passages of the training data that are measured where no texts are given."""


class Probe(TrainerCallback):  # type: ignore[misc]
    """Measures the model in training on fixed texts, and adds what it finds to the logs. Subclasses say what.

    It measures with the first log, then with the first log after every `every` steps, and with that of the last step.
    Training goes on as if it had not been measured: the model runs without dropout and is put back into its mode, and
    no random number is drawn. Every process measures, so that all of them stop or none does.

    Args:
        texts: What to encode, as passages; None takes positives from all over the training data.
        every: Steps between two measurements.

    Attributes:
        texts: What is encoded.

    Raises:
        ValueError: If there is no text, or `every` is not positive.
        TypeError: If `texts` is a single string.
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
        """Called before the first step, with an encoder that runs the model in training."""

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """The figures to log, by name.

        Args:
            encoder: Runs the model as it is now; a passage is cut to `passage_max_length`.
        """
        raise NotImplementedError

    def judge(self, found: Mapping[str, float], state: TrainerState, control: TrainerControl) -> None:
        """Called with what was measured; `control.should_training_stop = True` ends the training."""

    def on_train_begin(
        self,
        args: SelfDistillationArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: M3Model,
        train_dataloader: Any,
        **kwargs: Any,
    ) -> None:
        """Chooses the texts and prepares the encoder."""
        self.texts = self.texts or _passages(train_dataloader.dataset)
        self._due = -(-state.global_step // self._every) * self._every
        training = model.training
        named = M3Encoder.from_pretrained(model.checkpoint.folder, document_max_length=args.passage_max_length)
        self._encoder = live_encoder(model, named)
        self.start(self._encoder)
        model.train(training)

    def on_log(
        self,
        args: SelfDistillationArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float],
        model: M3Model,
        **kwargs: Any,
    ) -> None:
        """Measures, if it is time to, and adds the figures to the logs and to their history."""
        if "loss" not in logs or state.global_step < min(self._due, state.max_steps):
            return
        self._due = (state.global_step // self._every + 1) * self._every
        training = model.training
        model.eval()
        try:
            found = self.measure(self._encoder)
        finally:
            model.train(training)
        logs.update(found)
        state.log_history[-1].update(found)
        self.judge(found, state, control)


class SparseCollapseAlarm(Probe):
    """Warns when the sparse head stops telling tokens apart, which the loss need not show.

    It logs `sparse_empty`, the share of the texts without a positive weight, and `sparse_entropy`: the entropy of the
    weights of a text's distinct tokens over its maximum, on average; 1 is all tokens alike, 0 is one token alone.

    Args:
        texts: As for `Probe`.
        max_empty: More empty texts than this share are a collapse.
        min_entropy: So is an entropy below this.
        max_entropy: Or above this.
        every: Steps between two measurements.
        stop: End the training too.

    Raises:
        ValueError: If a limit is not from 0 to 1; and as `Probe`.
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
        self._distinct = [len(set(text.ids.tolist()) - special.ids) for text in texts]

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """`sparse_empty` and `sparse_entropy`."""
        rows = list(encoder.encode_documents(self.texts, heads=("sparse",)).sparse or ())
        entropies = [
            _entropy(row.values) / np.log(tokens)
            for row, tokens in zip(rows, self._distinct, strict=True)
            if len(row) and tokens > 1
        ]
        empty = sum(not len(row) for row in rows) / len(rows)
        return {"sparse_empty": empty, "sparse_entropy": float(np.mean(entropies)) if entropies else 0.0}

    def judge(self, found: Mapping[str, float], state: TrainerState, control: TrainerControl) -> None:
        """Warns at the onset of a collapse."""
        empty, entropy = found["sparse_empty"], found["sparse_entropy"]
        least, most = self._entropy
        before, self._collapsed = self._collapsed, empty > self._max_empty or not least <= entropy <= most
        if self._collapsed and not before and state.is_world_process_zero:
            logger.warning(
                "the sparse head has collapsed at step %d: %.0f%% of %d texts have no weight (at most %.0f%%), the "
                "entropy of the weights is %.3f (from %g to %g); lower head_learning_rate, raise the sparse "
                "loss weight or start from a trained head%s",
                *(state.global_step, 100 * empty, len(self.texts), 100 * self._max_empty, entropy, least, most),
                "; training stops here" if self._stop else "",
            )
        if self._collapsed and self._stop:
            control.should_training_stop = True


class Drift(Probe):
    """Logs how far each head has moved from the model that training started from.

    `drift_dense`, `drift_sparse` and `drift_multi_vector` are 1 less the mean cosine of a text's dense vectors, of its
    sparse vectors and of a token's vectors, then and now: 0 is unmoved. The model it starts from is that of the
    checkpoint folder, in a resumed run too; it is in memory at the start only.
    """

    def start(self, encoder: M3Encoder) -> None:
        """Encodes the texts with the model as it was before any training."""
        device = str(next(iter(encoder.devices)))
        self._base = M3Encoder.from_pretrained(encoder.model, devices=device).encode_documents(self.texts)

    def measure(self, encoder: M3Encoder) -> dict[str, float]:
        """The three drifts."""
        raise NotImplementedError


def _passages(drawn: Sequence[Drawn]) -> list[str]:
    return []


def _entropy(weights: NDArray[np.float32]) -> float:
    shares = weights.astype(np.float64) / weights.sum()
    return float(-(shares * np.log(shares)).sum())
