"""A model in memory: its tokenizer and one replica a device."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from m3plugins.encoding.assembling import Assembly, check_embeddings
from m3plugins.encoding.backends.base import Backend, BatchOutput
from m3plugins.encoding.batching import bounded_runs, token_budget_batches
from m3plugins.encoding.checking import loadable
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.forking import ON_ACCELERATOR, ForkError, is_forked
from m3plugins.encoding.memory import release_freed_memory
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.options import EncoderOptions
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, TokenizedText, load_tokenizer

WINDOW_TOKENS = 1 << 15
"""Tokens encoded, and held with their vectors, at a time: 128 MiB of multi-vectors at width 1024."""

_PROBE, _PROBE_LENGTH = "a fox", 16


class Model(ABC):
    """A model that encodes, in this process or elsewhere; safe to share among threads.

    Attributes:
        tokenizer: The checkpoint's tokenizer, which neither cuts nor pads.
        dim: Width of the dense vectors.
        multi_vector_dim: Width of the token vectors.
        vocab_size: Number of token ids.
    """

    tokenizer: Tokenizer
    dim: int
    multi_vector_dim: int
    vocab_size: int

    @abstractmethod
    def stream(
        self, texts: Iterable[str], layout: Layout, heads: Sequence[Head], on_batch: Callable[[int], object]
    ) -> Iterator[M3Output]:
        """Yields the embeddings of some texts after the others; `on_batch` hears of every few that are done."""

    @abstractmethod
    def renew(self) -> None:
        """Makes it usable in a forked process."""

    def empty(self, heads: Sequence[Head]) -> M3Output:
        """Returns the output of no text."""
        offsets = np.zeros(1, np.int64)
        no_ids, no_values = np.empty(0, np.int32), np.empty(0, np.float32)
        return M3Output(
            dense=np.empty((0, self.dim), np.float32) if "dense" in heads else None,
            sparse=SparseEmbeddings(offsets, no_ids, no_values, self.vocab_size) if "sparse" in heads else None,
            multi_vector=MultiVectorEmbeddings(offsets, np.empty((0, self.multi_vector_dim), np.float32))
            if "multi_vector" in heads
            else None,
            token_counts=np.empty(0, np.int32),
            truncated=np.empty(0, np.bool_),
        )

    def token(self, token_id: int) -> str:
        """Returns the word piece of a token id."""
        return self.tokenizer.id_to_token(token_id) or ""


class LoadedModel(Model):
    """Encodes windows of tokenised texts; safe to share among threads.

    Args:
        checkpoint: The model.
        options: How to run it.
        replicas: Where it runs, if it is in memory already.

    Raises:
        ValueError: If the files are damaged, or the model cannot encode a text.
    """

    def __init__(
        self, checkpoint: Checkpoint, options: EncoderOptions, replicas: Sequence[Backend] | None = None
    ) -> None:
        self._name = str(checkpoint.folder)
        self.tokenizer, self._special = load_tokenizer(checkpoint.folder)
        self._replicas = replicas or _load_replicas(checkpoint, options, self._special.pad)
        self._batch_tokens = options.batch_tokens or self._replicas[0].batch_tokens
        self._start()
        self.dim = self._replicas[0].dim
        self.multi_vector_dim = self._replicas[0].multi_vector_dim
        self.vocab_size = self._replicas[0].vocab_size

        if replicas is None:
            self._check(checkpoint)

    def _start(self) -> None:
        self.text_tokenizer = lru_cache(maxsize=8)(self._text_tokenizer)
        self._pool = ThreadPoolExecutor(len(self._replicas), thread_name_prefix="m3-encode")
        self._free: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        for replica in self._replicas:
            self._free.put(replica)

    def renew(self) -> None:
        """Makes it usable in a forked process: new threads, every replica free, and passes in threads of its own.

        The weights are the parent's, whose memory the processes share.

        Raises:
            ForkError: If the weights are on a device that forked processes cannot use.
        """
        if not all(replica.forkable for replica in self._replicas):
            raise ForkError(ON_ACCELERATOR)
        self.tokenizer = type(self.tokenizer).from_str(self.tokenizer.to_str())
        self._start()

    def _check(self, checkpoint: Checkpoint) -> None:
        """Encodes a text, so that a model that cannot is refused before anything is made for its vectors."""
        most = max([self.tokenizer.get_vocab_size(with_added_tokens=False) - 1, *self._added_ids()])
        if most >= self.vocab_size:
            msg = (
                f"the tokenizer of {checkpoint.folder} has token ids up to {most}, its encoder has vectors of "
                f"{self.vocab_size}; use the tokenizer that was saved with the weights"
            )
            raise ValueError(msg)
        text = self.text_tokenizer(Layout(min(_PROBE_LENGTH, checkpoint.max_length))).tokenize([_PROBE])
        for replica in self._replicas:
            with loadable("the embeddings of a text", checkpoint.folder):
                output = replica.forward(text, HEADS)
            check_embeddings(output, self._name)

    def _added_ids(self) -> list[int]:
        return list(self.tokenizer.get_added_tokens_decoder())

    def _text_tokenizer(self, layout: Layout) -> TextTokenizer:
        return TextTokenizer(self.tokenizer, layout)

    def stream(
        self, texts: Iterable[str], layout: Layout, heads: Sequence[Head], on_batch: Callable[[int], object]
    ) -> Iterator[M3Output]:
        """Encodes texts, window by window."""
        tokenized = self.text_tokenizer(layout).stream(texts)
        for window in bounded_runs(tokenized, lambda text: len(text.ids), WINDOW_TOKENS):
            yield self.encode(window, heads, on_batch)

    def encode(
        self, window: Sequence[TokenizedText], heads: Sequence[Head], on_batch: Callable[[int], object]
    ) -> M3Output:
        """The embeddings of a window of texts, in their order; `on_batch` hears of every few that are done."""
        assembly = Assembly(window, special_ids=sorted(self._special.ids), vocab_size=self.vocab_size)
        batches = token_budget_batches(assembly.lengths, self._batch_tokens)

        def forward(rows: np.ndarray) -> BatchOutput:
            replica = self._free.get()
            try:
                return replica.forward([window[row] for row in rows], heads)
            finally:
                self._free.put(replica)

        threaded = len(self._replicas) > 1 or is_forked()  # for the latter see `in_live_thread`
        outputs = self._pool.map(forward, batches) if threaded else map(forward, batches)
        for rows, output in zip(batches, outputs, strict=True):
            check_embeddings(output, self._name)
            assembly.add(rows, output)
            on_batch(len(rows))
            if len(batches) > 1:
                release_freed_memory()
        return assembly.output()


def _load_replicas(checkpoint: Checkpoint, options: EncoderOptions, pad_id: int) -> list[Backend]:
    from m3plugins.encoding.backends.torch import TorchBackend

    return [
        TorchBackend.load(checkpoint, device=device, dtype=options.dtype, pad_id=pad_id) for device in options.devices
    ]
