"""Texts to token ids, a slab ahead of the forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SLAB_TEXTS = 512
SLAB_CHARACTERS = 1 << 20


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """The token ids of one text, special tokens included, and whether it was cut to the maximum length."""

    ids: NDArray[np.int32]
    truncated: bool


class TextTokenizer:
    """A checkpoint's tokenizer with one maximum length. Its state never changes, so threads may share it.

    Args:
        backend: The tokenizer of the `tokenizers` library, copied.
        max_length: Tokens per text, special tokens included.
    """

    def __init__(self, backend: Tokenizer, max_length: int) -> None:
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.enable_truncation(max_length)

    def tokenize(self, texts: list[str]) -> list[TokenizedText]:
        """Token ids of each text."""
        return [
            TokenizedText(np.array(encoding.ids, dtype=np.int32), bool(encoding.overflowing))
            for encoding in self._backend.encode_batch(texts)
        ]

    def stream(self, texts: Iterable[str]) -> Iterator[TokenizedText]:
        """Tokenises a stream in slabs, in a thread that works one slab ahead of the reader.

        Raises:
            TypeError: If an item is not a string.
            ValueError: If a string is not valid Unicode.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="m3-tokenize") as pool:
            ahead: Future[list[TokenizedText]] | None = None
            for slab in _slabs(texts):
                current, ahead = ahead, pool.submit(self.tokenize, slab)
                if current is not None:
                    yield from current.result()
            if ahead is not None:
                yield from ahead.result()


@dataclass(frozen=True)
class SpecialIds:
    """Ids that carry no lexical weight: cls, eos, pad and unk, those the tokenizer has."""

    ids: frozenset[int]
    pad: int


def load_tokenizer(folder: Path) -> tuple[Tokenizer, SpecialIds]:
    """The folder's fast tokenizer and its special ids.

    Raises:
        ValueError: If the tokenizer has no fast form.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        msg = f"{folder} has no fast tokenizer; add its tokenizer.json"
        raise ValueError(msg)
    # The reference drops exactly these four; sep and mask are eos or never occur in M3.
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("cls", "eos", "pad", "unk")]
    special = frozenset(i for i in ids if i is not None)
    return tokenizer.backend_tokenizer, SpecialIds(special, tokenizer.pad_token_id or 0)


def _slabs(texts: Iterable[str]) -> Iterator[list[str]]:
    """Runs of texts, bounded in number and in characters."""
    slab: list[str] = []
    characters = 0
    for position, text in enumerate(texts):
        _check_text(position, text)
        if slab and (len(slab) == SLAB_TEXTS or characters + len(text) > SLAB_CHARACTERS):
            yield slab
            slab, characters = [], 0
        slab.append(text)
        characters += len(text)
    if slab:
        yield slab


def _check_text(position: int, text: object) -> None:
    if not isinstance(text, str):
        msg = f"texts must be strings, got {type(text).__name__} at position {position}"
        raise TypeError(msg)
    try:
        text.encode()
    except UnicodeEncodeError as err:
        msg = (
            f"text {position} has a lone surrogate at character {err.start}, which is not valid Unicode; "
            'repair it, as in text.encode("utf-8", "replace").decode()'
        )
        raise ValueError(msg) from err
