"""Reranking with a cross-encoder, which reads query and text together."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.backends.installed import check_torch
from m3plugins.encoding.batching import token_budget_batches
from m3plugins.encoding.checking import check_files
from m3plugins.encoding.checkpoint import max_sequence_length
from m3plugins.encoding.forking import ON_ACCELERATOR, ForkError, in_live_thread, is_forked, renew_after_fork
from m3plugins.encoding.hub import download
from m3plugins.encoding.locate import local_folder
from m3plugins.encoding.options import Dtype, EncoderOptions
from m3plugins.encoding.settings import check_settings
from m3plugins.encoding.shortening import Shortener

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


class CrossEncoderReranker:
    """Scores texts with a transformers sequence-classification model of one label, e.g. bge-reranker-v2-m3.

    The score is the model's logit, unbounded; with `normalize` its sigmoid, in (0, 1). Nothing is loaded until it is
    used, or `warm_up()` is called; only a folder is looked for at once.

    Args:
        model: A hub id such as "BAAI/bge-reranker-v2-m3", or a folder.
        max_length: Tokens of query and text together; the longer of the two is cut. None is the model's maximum.
        normalize: Return sigmoids in place of logits.
        dtype: Precision of the forward pass; "auto" is float32.
        device: A torch device; "auto" is the first accelerator, or the CPU.
        batch_tokens: Padded tokens per forward pass.

    Raises:
        TypeError: If the model is neither a string nor a path.
        ValueError: If an option is out of its range.
        FileNotFoundError: If the model can only be a folder, and there is none.
        ImportError: If torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path = "BAAI/bge-reranker-v2-m3",
        *,
        max_length: int | None = None,
        normalize: bool = False,
        dtype: Dtype = "auto",
        device: str = "auto",
        batch_tokens: int = 4096,
    ) -> None:
        for name, value in {"max_length": max_length, "batch_tokens": batch_tokens}.items():
            if value is None and name == "max_length":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 8:
                msg = f"{name} must be an integer >= 8, got {value!r}"
                raise ValueError(msg)
        EncoderOptions(dtype=dtype, devices=(device,))  # checks them
        folder = local_folder(model)
        check_torch(str(model), served=False)
        if folder:
            check_files(folder)
            if not (folder / "config.json").is_file():
                msg = f"{folder} is not a model's folder: it has no config.json"
                raise FileNotFoundError(msg)
        self.model = str(model)
        self.max_length = max_length
        self.normalize = normalize
        self.dtype: Dtype = dtype
        self.device = device
        self.batch_tokens = batch_tokens
        self._loading = threading.Lock()
        self._loaded: _LoadedCrossEncoder | None = None
        renew_after_fork(self)

    def warm_up(self) -> CrossEncoderReranker:
        """Loads the tokenizer and the weights now, if that has not happened yet; returns the reranker.

        Raises:
            FileNotFoundError: If there is no such model.
            ValueError: If the model does not score pairs with one label, or lacks weights.
        """
        self._load()
        return self

    def score(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Relevance of each text, shape (n,), float32. Texts that had to be cut are counted in a warning.

        Raises:
            ValueError: If the model gives NaN or infinity.
        """
        if not texts:
            return np.empty(0, np.float32)
        loaded = self._load()
        pairs = loaded.tokenize(query, texts)
        lengths = np.array([len(ids) for ids in pairs["input_ids"]])
        scores = np.empty(len(texts), np.float32)
        for rows in token_budget_batches(lengths, self.batch_tokens):
            batch = {name: [values[row] for row in rows] for name, values in pairs.items()}
            scores[rows] = in_live_thread(partial(loaded.forward, batch))
        if not np.isfinite(scores).all():
            msg = (
                f"scores must be finite, {self.model} gave NaN or infinity: its weights are damaged, or dtype is too "
                "narrow for them; download the model again, or use dtype float32"
            )
            raise ValueError(msg)
        return sigmoid(scores) if self.normalize else scores

    def _load(self) -> _LoadedCrossEncoder:
        with self._loading:
            if self._loaded is None:
                load = partial(_load, self.model, self.dtype, self.device, self.max_length)
                self._loaded = in_live_thread(load)
            elif is_forked() and self._loaded.device.type != "cpu":
                raise ForkError(ON_ACCELERATOR)
            return self._loaded

    def renew(self) -> None:
        """Makes the reranker usable in a forked process, which calls it, with the parent's weights."""
        self._loading = threading.Lock()
        if self._loaded is not None:
            self._loaded = replace(self._loaded, lock=threading.Lock())


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), without overflow.

    Example:
        >>> sigmoid(np.float32([0, -1000, 1000])).tolist()
        [0.5, 0.0, 1.0]
    """
    decay = np.exp(-np.abs(logits))
    probabilities: NDArray[np.float32] = np.where(logits >= 0, np.float32(1), decay) / (1 + decay)
    return probabilities


@dataclass(frozen=True)
class _LoadedCrossEncoder:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    device: torch.device
    lock: threading.Lock

    def tokenize(self, query: str, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        with self.lock:  # truncation is state of the tokenizer
            self.tokenizer.backend_tokenizer.no_truncation()
            shortener = Shortener(self.tokenizer.backend_tokenizer)
            (query, _), *read = (shortener.shorten(text, self.max_length) for text in (query, *texts))
            pairs = self.tokenizer(
                [query] * len(read), [text for text, _ in read], truncation=True, max_length=self.max_length
            )
        cut = sum(
            bool(encoding.overflowing) or not exact for encoding, (_, exact) in zip(pairs.encodings, read, strict=True)
        )
        if cut:
            logger.warning("%d of %d pairs were longer than %d tokens and were cut", cut, len(texts), self.max_length)
        return dict(pairs)

    def forward(self, batch: dict[str, list[list[int]]]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits = self.model(**self.tokenizer.pad(batch, return_tensors="pt").to(self.device)).logits
        scores: NDArray[np.float32] = logits[:, 0].float().cpu().numpy()
        return scores


def _load(name: str, dtype: Dtype, device: str, max_length: int | None) -> _LoadedCrossEncoder:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from m3plugins.encoding.backends.torch import load_pretrained, torch_device, torch_dtype

    folder = local_folder(name) or download(name)
    check_files(folder)
    check_settings(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model, report = load_pretrained(AutoModelForSequenceClassification, folder)
    if missing := sorted(report["missing_keys"]):
        msg = f"a cross-encoder must bring all its weights, {name} lacks {missing[0]}; use a reranker model"
        raise ValueError(msg)
    if model.config.num_labels != 1:
        msg = f"a cross-encoder scores with one label, {name} has {model.config.num_labels}; use a reranker model"
        raise ValueError(msg)
    target = torch_device(device)
    limit = max_sequence_length(model.config.to_dict(), tokenizer.model_max_length)
    return _LoadedCrossEncoder(
        model=model.to(device=target, dtype=torch_dtype(dtype)).eval(),
        tokenizer=tokenizer,
        max_length=min(max_length or limit, limit),
        device=target,
        lock=threading.Lock(),
    )
