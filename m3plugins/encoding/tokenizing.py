"""Texts to token ids, a slab ahead of the forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.checking import loadable
from m3plugins.encoding.shortening import Shortener
from m3plugins.encoding.text import check_unicode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SLAB_TEXTS = 512
SLAB_CHARACTERS = 1 << 20

_ONE_CLS = np.zeros(1, np.int64)


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """The token ids of one text.

    Attributes:
        ids: Special tokens included, shape (t,), int32.
        truncated: Whether the text was cut to the maximum length.
        cls: Where the CLS tokens stand, the first at 0, int64. A text may hold the id of CLS elsewhere:
            that one is a word.
    """

    ids: NDArray[np.int32]
    truncated: bool
    cls: NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How a text is laid out for the model: CLS, prompt, text, eos; with MCLS a CLS ahead of every run of tokens.

    Attributes:
        max_length: Tokens per text, special tokens included.
        mcls: Tokens of text per CLS (M3 paper, section 3.4); None for one CLS at the start.
        prompt: What goes ahead of the text; it counts as text.

    Example:
        >>> layout = Layout(max_length=10, mcls=3)  # CLS t t t CLS t t t CLS eos: the last CLS would mark nothing
        >>> layout.text_tokens
        6
    """

    max_length: int
    mcls: int | None = None
    prompt: str = ""

    @property
    def text_tokens(self) -> int:
        """Tokens of prompt and text that fit."""
        room = self.max_length - 1  # eos
        if self.mcls is None:
            return room - 1
        runs, rest = divmod(room, self.mcls + 1)
        return runs * self.mcls + max(0, rest - 1)

    def lay_out(self, ids: NDArray[np.int32], *, truncated: bool) -> TokenizedText:
        """Token ids with one CLS, with as many as there should be."""
        if self.mcls is None or len(ids) <= self.mcls + 2:
            return TokenizedText(ids, truncated, _ONE_CLS)
        further = np.arange(1 + self.mcls, len(ids) - 1, self.mcls)
        cls = np.arange(1 + len(further)) * (1 + self.mcls)
        return TokenizedText(np.insert(ids, further, ids[0]), truncated, cls)


def check_texts(texts: Iterable[str]) -> Iterable[str]:
    """The texts themselves.

    Raises:
        TypeError: If `texts` is one string.
    """
    if isinstance(texts, str):
        msg = "texts must be a list or another iterable of strings, got one string; put it in a list"
        raise TypeError(msg)
    return texts


class TextTokenizer:
    """A checkpoint's tokenizer with one layout. Its state never changes, so threads may share it.

    Args:
        backend: The tokenizer of the `tokenizers` library, copied.
        layout: Lengths, CLS tokens and prompt.

    Raises:
        ValueError: If the prompt leaves no room for text.
    """

    def __init__(self, backend: Tokenizer, layout: Layout) -> None:
        self._layout = layout
        self._shortener = Shortener(backend)
        self._backend = type(backend).from_str(backend.to_str())
        if layout.prompt and len(self._backend.encode(layout.prompt, add_special_tokens=False)) >= layout.text_tokens:
            msg = (
                f"a prompt must leave room for the text, {layout.prompt!r:.80} fills the {layout.text_tokens} tokens "
                f"that a maximum length of {layout.max_length} has; shorten it or raise the maximum length"
            )
            raise ValueError(msg)
        self._backend.enable_truncation(layout.text_tokens + 2)

    def tokenize(self, texts: list[str]) -> list[TokenizedText]:
        """Token ids of each text, ahead of it the prompt.

        Raises:
            RuntimeError: If the tokenizer's library fails.
        """
        prompt, room = self._layout.prompt, self._layout.text_tokens
        read = [self._shortener.shorten(prompt + text if prompt else text, room) for text in texts]
        try:
            encodings = self._backend.encode_batch([text for text, _ in read])
        except BaseException as err:
            if type(err).__name__ != "PanicException":  # Rust's, which `except Exception` lets pass
                raise
            msg = f"the tokenizer failed: {err}"
            raise RuntimeError(msg) from err
        return [
            self._layout.lay_out(np.array(encoding.ids, np.int32), truncated=bool(encoding.overflowing) or not exact)
            for encoding, (_, exact) in zip(encodings, read, strict=True)
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
    """The folder's fast tokenizer, which neither cuts nor pads, and its special ids.

    Raises:
        ValueError: If the tokenizer has no fast form, or cannot be made of its files.
    """
    from transformers import AutoTokenizer

    with loadable("the tokenizer", folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        msg = f"{folder} has no fast tokenizer; add its tokenizer.json"
        raise ValueError(msg)
    # The reference drops exactly these four; sep and mask are eos or never occur in M3.
    ids = [getattr(tokenizer, f"{name}_token_id") for name in ("cls", "eos", "pad", "unk")]
    special = frozenset(i for i in ids if i is not None)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend, SpecialIds(special, tokenizer.pad_token_id or 0)


def _slabs(texts: Iterable[str]) -> Iterator[list[str]]:
    """Runs of texts, bounded in number and in characters."""
    slab: list[str] = []
    characters = 0
    for position, text in enumerate(texts):
        check_text(text, position)
        if slab and (len(slab) == SLAB_TEXTS or characters + len(text) > SLAB_CHARACTERS):
            yield slab
            slab, characters = [], 0
        slab.append(text)
        characters += len(text)
    if slab:
        yield slab


def check_text(text: object, position: int = 0) -> None:
    """Refuses what is not a string of valid Unicode; `position` tells the reader which text it is.

    Raises:
        TypeError: If it is no string.
        ValueError: If it has a lone surrogate.
    """
    if not isinstance(text, str):
        msg = f"texts must be strings, got {type(text).__name__} at position {position}"
        raise TypeError(msg)
    check_unicode(f"text {position}", text)
