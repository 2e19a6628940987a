"""Sources of an encoder's model: a checkpoint that runs in this process, or a service (`remote.py`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from m3plugins.encoding.backends.installed import check_torch
from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.loaded import LoadedModel, Model
from m3plugins.encoding.locate import BUNDLED, local_folder, locate
from m3plugins.encoding.options import EncoderOptions
from m3plugins.encoding.sentence_transformers import Prompts


def is_url(model: str | os.PathLike[str]) -> bool:
    """Tells whether a model is named by the address of a service."""
    return isinstance(model, str) and model.startswith(("http://", "https://"))


class Source(Protocol):
    """What is known of a model before it is loaded, and how it is."""

    @property
    def name(self) -> str:
        """The model's name for people."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The model's folder, downloaded or assembled if need be.

        Raises:
            FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
            ValueError: If it cannot do what the options ask for, or is not in this process.
        """

    @property
    def description(self) -> Mapping[str, Any]:
        """What decides the vectors, by name."""

    @property
    def former_fingerprint(self) -> str:
        """What identifies the model in indexes that record no description."""

    @property
    def probes(self) -> Mapping[str, str] | None:
        """What the model makes of a few known texts; None where that is to be computed."""

    @property
    def settings(self) -> dict[str, str]:
        """What may differ in the last digits only."""

    @property
    def prompts(self) -> Prompts:
        """What the model reads ahead of queries and of documents."""

    @property
    def query_max_length(self) -> int:
        """Tokens a query is cut to."""

    @property
    def document_max_length(self) -> int:
        """Tokens a document is cut to."""

    def check(self) -> None:
        """Looks for the model without loading it.

        Raises:
            FileNotFoundError: If there is no such model, or it is no M3 checkpoint.
            ValueError: If its files cannot be right.
            ServiceError: If its service cannot be reached.
        """

    def load(self) -> Model:
        """Loads the model, or reaches it."""


class LocalSource:
    """A checkpoint folder, a hub id or a bundled model, run in this process.

    Args:
        model: Which.
        options: How to run it.
        loaded: Whether the model is in memory already, so that its files need not be looked at.
    """

    def __init__(self, model: str | Path, options: EncoderOptions, *, loaded: bool = False) -> None:
        folder = local_folder(model, bundled=BUNDLED)
        self.name = str(model) if folder is None else folder.resolve().name
        self._model = str(model)
        self._options = options
        if not loaded:  # what is wrong shows at once
            check_torch(self.name)
            if folder is not None:
                options.check(locate(folder))

    probes = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's folder; see `Source.checkpoint`."""
        checkpoint = locate(self._model, self._options.revision)
        self._options.check(checkpoint)
        return checkpoint

    def check(self) -> None:
        """Looks at the files of the checkpoint."""
        self.checkpoint.check()

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """Weights, heads, settings, tokenizer, pooling, MCLS and prompts."""
        return self.checkpoint.description(mcls=self._options.mcls, prompts=self.prompts)

    @cached_property
    def former_fingerprint(self) -> str:
        """The fingerprint of a version before; it leaves out the settings."""
        return self.checkpoint.former_fingerprint(mcls=self._options.mcls, prompts=self.prompts)

    @property
    def settings(self) -> dict[str, str]:
        """The backend and the precision."""
        dtype = self._options.dtype
        return {"backend": "torch", "dtype": "float32" if dtype == "auto" else dtype}

    @cached_property
    def prompts(self) -> Prompts:
        """The options' prompts, or the checkpoint's.

        Raises:
            ValueError: If there are any, and the model leaves them out of its dense vectors.
        """
        return self.checkpoint.prompted(query=self._options.query_prompt, document=self._options.document_prompt)

    @property
    def query_max_length(self) -> int:
        """The option, or what the model reads."""
        return min(self._options.query_max_length, self.checkpoint.max_length)

    @property
    def document_max_length(self) -> int:
        """The option, which was checked, or what the model reads."""
        limit = self.checkpoint.max_length
        return self._options.document_max_length or limit

    def load(self) -> LoadedModel:
        """Loads the tokenizer and the weights."""
        return LoadedModel(self.checkpoint, self._options)
