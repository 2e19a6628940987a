"""The encoder: texts in; dense, sparse and multi-vector embeddings out, from one forward pass a text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m3plugins.encoding.checkpoint import Checkpoint, fingerprint_of
from m3plugins.encoding.forking import in_live_thread, renew_after_fork
from m3plugins.encoding.loaded import LoadedModel, Model
from m3plugins.encoding.memo import EmbeddingMemo
from m3plugins.encoding.options import Dtype, EncoderOptions
from m3plugins.encoding.output import HEADS, Head, M3Output, check_heads
from m3plugins.encoding.probes import TEXTS, sketch
from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.encoding.source import LocalSource, Source, is_url
from m3plugins.encoding.tokenizing import Layout, check_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)


class M3Encoder:
    """Encodes texts with an M3 model: dense, sparse and multi-vector from one forward pass.

    Nothing is loaded until it is used, or `warm_up()` is called; only a folder's files are looked for at once. Safe to
    share among threads, and with forked processes, which share the weights that are loaded before the fork; on an
    accelerator these raise `ForkError` (`m3plugins.encoding.forking`). Make one with `M3Encoder.from_pretrained`.

    Args:
        model: A checkpoint folder, a hub id, "m3-mini", or a service's URL.
        options: How to run it.
        loaded: The model, if it is in memory already.
        token: The API key of a service; pickled encoders leave it out.

    Attributes:
        model: What it was made with.
        name: The model's name for people: a hub id, "m3-mini", or a folder's name without its path.
        memo: Encodes as this encoder does, and remembers: for hosts that ask for one head at a time.
    """

    def __init__(
        self,
        model: str | Path,
        options: EncoderOptions | None = None,
        *,
        loaded: LoadedModel | None = None,
        token: str | None = None,
    ) -> None:
        self.model = str(model)
        self.options = options or EncoderOptions()
        self._source: Source
        if is_url(self.model):
            from m3plugins.encoding.remote import RemoteSource

            self._source = RemoteSource(self.model, self.options, token)
        else:
            self._source = LocalSource(model, self.options, loaded=loaded is not None)
        self.name = self._source.name
        self._loading = threading.Lock()
        self._loaded: Model | None = loaded
        self._stale = False
        self.memo = EmbeddingMemo(self)
        renew_after_fork(self)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        backend: Literal["auto", "torch"] = "auto",
        dtype: Dtype = "auto",
        devices: str | Sequence[str] = "auto",
        query_max_length: int = 512,
        document_max_length: int | None = None,
        batch_tokens: int | None = None,
        mcls: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        token: str | None = None,
    ) -> M3Encoder:
        """Names a model and how to run it.

        Args:
            model: A checkpoint folder, a hub id such as "BAAI/bge-m3", "m3-mini" (bundled, English), or the URL of a
                service (`m3 serve`), whose own options hold.
            revision: Branch, tag or commit of a hub id.
            backend: "auto" or "torch".
            dtype: Precision of the forward pass; "auto" is float32. Embeddings are float32 whatever it is.
            devices: A torch device, or several, each of which holds the model and takes batches;
                "auto" is the first accelerator, or the CPU.
            query_max_length: Tokens a query is cut to, special tokens included.
            document_max_length: Tokens a document is cut to; None is the model's maximum.
            batch_tokens: Padded tokens per forward pass; None suits the device.
            mcls: Tokens of text after which another CLS token is inserted in documents (M3 paper, section
                3.4, uses 256); their dense vector is the mean over the CLS tokens. None: one CLS at the start.
            query_prompt: What the model reads ahead of every query; None is the checkpoint's own, which may be "".
            document_prompt: The same for documents.
            token: The API key of a service; by default that in the variable M3_SERVICE_TOKEN.

        Raises:
            TypeError: If the model is neither a string nor a path.
            ValueError: If an option is out of its range, or the folder's model cannot do what it asks for.
            FileNotFoundError: If the model can only be a folder, and there is none, or it is no M3 checkpoint.
            ImportError: If torch or transformers is not installed.
        """
        return cls(
            model,
            EncoderOptions(
                revision=revision,
                backend=backend,
                dtype=dtype,
                devices=(devices,) if isinstance(devices, str) or not isinstance(devices, Sequence) else tuple(devices),
                query_max_length=query_max_length,
                document_max_length=document_max_length,
                batch_tokens=batch_tokens,
                mcls=mcls,
                query_prompt=query_prompt,
                document_prompt=document_prompt,
            ),
            token=token,
        )

    def check(self) -> None:
        """Looks for the model, its files or its service, without loading it.

        Raises:
            FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
            ValueError: If its files cannot be right.
            ServiceError: If its service cannot be reached.
        """
        self._source.check()

    def warm_up(self) -> M3Encoder:
        """Loads the tokenizer and the weights now, if that has not happened yet; returns the encoder."""
        self._load()
        return self

    def encode_documents(
        self, texts: Iterable[str], *, heads: Iterable[str] = HEADS, progress: bool = False
    ) -> M3Output:
        """Encodes documents.

        Args:
            texts: The documents; a single string is refused, put it in a list.
            heads: Which heads to compute.
            progress: Show a progress bar.

        Returns:
            Embeddings in input order. Texts longer than `document_max_length` are cut, marked in
            `truncated` and counted in a warning. A text is tokenised as far as that takes, whatever its
            length; it also counts as cut at a run of more than 131,072 characters that offers no place
            to split, such as one character repeated.

        Raises:
            TypeError: If `texts` is a string or holds something else than strings.
            ValueError: If a head is unknown, a text is not valid Unicode, or `mcls` is not for this model.
            FileNotFoundError: If there is no such model.
        """
        return self._encode(texts, self.document_layout, heads, progress)

    def encode_queries(self, texts: Iterable[str], *, heads: Iterable[str] = HEADS, progress: bool = False) -> M3Output:
        """Encodes queries, cut to `query_max_length`; otherwise as `encode_documents`."""
        return self._encode(texts, self.query_layout, heads, progress)

    def iter_documents(
        self, texts: Iterable[str], *, heads: Iterable[str] = HEADS, progress: bool = False
    ) -> Iterator[M3Output]:
        """Encodes a stream of documents in constant memory.

        Args:
            texts: The documents, read as they are needed.
            heads: Which heads to compute.
            progress: Show a progress bar.

        Yields:
            Outputs of consecutive texts, in input order; joined, they are what `encode_documents` returns.
            Texts that were cut are marked in `truncated`; counting them is the reader's.
        """
        return self._stream(texts, self.document_layout, check_heads(heads), progress)

    def iter_queries(
        self, texts: Iterable[str], *, heads: Iterable[str] = HEADS, progress: bool = False
    ) -> Iterator[M3Output]:
        """Encodes a stream of queries; as `iter_documents`, cut to `query_max_length`."""
        return self._stream(texts, self.query_layout, check_heads(heads), progress)

    @property
    def checkpoint(self) -> Checkpoint:
        """The model's checkpoint folder, downloaded or assembled if need be.

        Raises:
            FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
            ValueError: If it cannot do what the options ask for, or runs in a service.
        """
        return self._source.checkpoint

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the vectors, the `description`; 64 hex digits."""
        return fingerprint_of(self.description)

    @property
    def description(self) -> Mapping[str, Any]:
        """What decides the vectors, by name: weights, heads, settings, tokenizer, pooling, MCLS and prompts."""
        return self._source.description

    @property
    def former_fingerprint(self) -> str:
        """What identifies this model in indexes that record no `description`; it leaves out the settings."""
        return self._source.former_fingerprint

    @cached_property
    def probes(self) -> Mapping[str, str]:
        """What the model makes of a few known texts, in short, to be compared with `m3plugins.encoding.probes`."""
        if self._source.probes is not None:
            return self._source.probes
        layout = replace(self.document_layout, max_length=self.checkpoint.max_length)
        outputs = list(self._stream(TEXTS, layout, HEADS, progress=False))
        return sketch(M3Output.concatenate(outputs), self.settings)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory, so that encoding begins at once."""
        return self._loaded is not None

    @property
    def prompts(self) -> Prompts:
        """What the model reads ahead of queries and of documents: the options', or the checkpoint's.

        Raises:
            ValueError: If there are any, and the model leaves them out of its dense vectors.
        """
        return self._source.prompts

    @property
    def settings(self) -> dict[str, str]:
        """What may differ in the last digits only: the backend and the precision."""
        return self._source.settings

    @property
    def query_max_length(self) -> int:
        """Tokens a query is cut to."""
        return self._source.query_max_length

    @property
    def document_max_length(self) -> int:
        """Tokens a document is cut to."""
        return self._source.document_max_length

    @property
    def query_layout(self) -> Layout:
        """How a query is laid out for the model: how long it may be, and its prompt."""
        return Layout(self.query_max_length, prompt=self.prompts.query)

    @property
    def document_layout(self) -> Layout:
        """How a document is laid out for the model: how long it may be, where its CLS tokens stand, and its prompt."""
        return Layout(self.document_max_length, self.options.mcls, self.prompts.document)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, which neither cuts nor pads. It is shared: do not change its settings."""
        return self._load().tokenizer

    @property
    def dim(self) -> int:
        """Width of the dense vectors."""
        return self._load().dim

    @property
    def multi_vector_dim(self) -> int:
        """Width of the token vectors."""
        return self._load().multi_vector_dim

    @property
    def vocab_size(self) -> int:
        """Number of token ids; the sparse ids are below it."""
        return self._load().vocab_size

    def decode_token(self, token_id: int) -> str:
        """The word piece of a sparse id, for the reader's eye."""
        return self._load().token(token_id)

    def _encode(self, texts: Iterable[str], layout: Layout, heads: Iterable[str], progress: bool) -> M3Output:
        asked = check_heads(heads)
        parts = list(self._stream(texts, layout, asked, progress))
        output = M3Output.concatenate(parts) if parts else self._load().empty(asked)
        if cut := int(output.truncated.sum()):
            logger.warning(
                "%d of %d texts were longer than %d tokens and were cut", cut, len(output), layout.max_length
            )
        return output

    def _stream(
        self, texts: Iterable[str], layout: Layout, heads: Sequence[Head], progress: bool
    ) -> Iterator[M3Output]:
        return self._windows(check_texts(texts), layout, heads, progress)

    def _windows(
        self, texts: Iterable[str], layout: Layout, heads: Sequence[Head], progress: bool
    ) -> Iterator[M3Output]:
        from tqdm.auto import tqdm

        total = len(texts) if isinstance(texts, Sequence) else None
        with tqdm(total=total, desc="encoding", unit="text", disable=not progress) as bar:
            yield from self._load().stream(texts, layout, heads, bar.update)

    def _load(self) -> Model:
        with self._loading:
            if self._loaded is None:
                self._loaded = in_live_thread(self._source.load)
            elif self._stale:
                self._loaded.renew()
            self._stale = False
            return self._loaded

    def renew(self) -> None:
        """Makes it usable in a forked process, with the weights that the parent has; called there by itself."""
        self._loading = threading.Lock()
        self._stale = True

    def __reduce__(self) -> tuple[type[M3Encoder], tuple[str, EncoderOptions]]:
        """Pickled, it is the name of the model and how to run it; the weights are read anew."""
        return type(self), (self.model, self.options)

    def __deepcopy__(self, memo: object) -> M3Encoder:
        """Itself: it does not change, and its weights are large."""
        return self

    def __repr__(self) -> str:
        return f"M3Encoder({self.model!r}, {self.options})"
