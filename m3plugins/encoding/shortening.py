"""Long texts to their beginnings, as many tokens long as somebody reads, in memory proportional to those tokens.

A text is tokenised in pieces, cut where the tokenizer provably splits: the tokens of the pieces, joined, are those of
the whole text. Inside a run without such a place, what counts is only what no continuation can change.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tokenizers.models import Unigram, WordPiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WINDOW = 1 << 14
"""Characters tokenised at a time. A text of up to four windows is left as it is."""

RUN = 1 << 17
"""Characters without a provable split after which a text counts as cut, for every 8,192 tokens that are wanted."""

_TOKENS = 8192

_FORMS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled", "BertNormalizer"}
"""Normalizers whose result left of a boundary of normalisation does not depend on what is right of it."""

_COLLAPSE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}

_PREPENDED = "\u0d4e\U000111c2\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02" + "".join(
    map(chr, range(0x11A84, 0x11A8A))
)
"""Letters that join the next character in a grapheme cluster (Unicode Standard Annex 29, Prepend)."""

_COMPOSED = ((0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF), (0x16D40, 0x16D7F))
"""Letters that compose with the one before: Hangul jamo, Kirat Rai."""

_IDEOGRAPHS = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF)),
    *((0x2A700, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F)),
)
"""What BERT's normalizer may set apart, and a little more."""


@dataclass(frozen=True)
class _Rules:
    """Where a tokenizer splits, whatever else the text says.

    Attributes:
        breaks: Whitespace ahead of which a word ends.
        collapses: Whether a run of whitespace is as good as two characters of it.
        isolates: Whether single characters, such as punctuation, may be words of their own wherever they stand.
    """

    breaks: str = ""
    collapses: bool = False
    isolates: bool = False


class Shortener:
    """Finds how much of a text has a number of tokens. Its answers never change, so threads may share it.

    Places to split are known for the pipelines of XLM-R (SentencePiece's Unigram), BERT and GPT-2 (byte level).

    Args:
        backend: A tokenizer that neither cuts nor pads.
        window: Characters tokenised at a time.
        run: Characters without a provable split that are looked through for every 8,192 tokens.
    """

    def __init__(self, backend: Tokenizer, *, window: int = WINDOW, run: int = RUN) -> None:
        self._backend = backend
        self._window = window
        self._run = run
        self._isolated: dict[str, bool] = {}

    def shorten(self, text: str, tokens: int) -> tuple[str, bool]:
        """Shortens a long text to one that reads alike, up to a number of tokens.

        Args:
            text: Of any length.
            tokens: How many matter, special tokens not counted.

        Returns:
            A text that has all the tokens of the one given, or more than `tokens` and the same first ones; and True.
            Or, with False, the text up to and with a run of very many characters in which the tokenizer's splits
            cannot be known: of one character that is repeated, say, or of combining marks.
        """
        if len(text) <= 4 * self._window:
            return text, True
        pieces: list[str] = []
        start = count = 0
        while start < len(text) and count <= tokens:
            start = self._past_spaces(text, start)
            if end := self._last_split(text, start):
                piece = text[start:end]
                count += len(self._encode(piece))
            else:
                piece, count, end = self._begin_run(text, start, count, tokens)
            pieces.append(piece)
            if not end:
                return "".join(pieces), False
            start = end
        return "".join(pieces), True

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    @cached_property
    def _rules(self) -> _Rules:
        if any(token.single_word or token.rstrip for token in self._backend.get_added_tokens_decoder().values()):
            return _Rules()
        return _rules(list(_parts(self._backend.normalizer)), list(_parts(self._backend.pre_tokenizer)), self._backend)

    @cached_property
    def _added(self) -> tuple[str, ...]:
        return tuple(token.content for token in self._backend.get_added_tokens_decoder().values() if token.content)

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self._backend.get_vocab()), default=1)

    @cached_property
    def _spaces(self) -> re.Pattern[str]:
        return re.compile(f"[{self._rules.breaks}]{{3,}}")

    def _past_spaces(self, text: str, start: int) -> int:
        """The start of what is left of a long run of whitespace."""
        if not self._rules.collapses or not (run := self._spaces.match(text, start)):
            return start
        return run.end() - 2

    def _last_split(self, text: str, start: int) -> int:
        """The last provable split within a window, the end of the text if that is; 0 if there is none."""
        if len(text) <= start + self._window:
            return len(text)
        return next((p for p in range(start + self._window, start, -1) if self._splits(text, p)), 0)

    def _splits(self, text: str, position: int) -> bool:
        """Whether the tokens of what is before and after are those of the whole."""
        left, right = text[position - 1], text[position]
        if not (right in self._rules.breaks or self._isolates(left) or self._isolates(right)):
            return False
        return is_boundary(left, right) and not self._in_added(text, position)

    def _isolates(self, character: str) -> bool:
        """Whether the character is a word of its own between any others."""
        if not self._rules.isolates:
            return False
        if character not in self._isolated:
            self._isolated[character] = len(self._words(f"a{character}a")) == 3
        return self._isolated[character]

    def _in_added(self, text: str, position: int) -> bool:
        """Whether an added token may stand across the position."""
        return any(
            text.find(token, max(0, position - len(token) + 1), position + len(token) - 1) >= 0 for token in self._added
        )

    def _begin_run(self, text: str, start: int, count: int, tokens: int) -> tuple[str, int, int]:
        """The beginning of a run without a provable split in a window.

        Returns:
            As much of it as matters, the count with its tokens, and where to go on: 0 if nobody knows.
        """
        most = self._run * (1 + tokens // _TOKENS)
        if len(text) - start <= most:
            return text[start:], count + len(self._encode(text[start:])), len(text)
        if isinstance(self._backend.model, WordPiece) and (end := self._end_of_long_word(text, start)):
            piece = text[start : start + self._window]
            return piece, count + len(self._encode(piece)), end
        if isinstance(self._backend.model, Unigram) and (end := self._settled_end(text, start, tokens - count, most)):
            return text[start:end], tokens + 1, end
        return text[start : start + most], count, 0

    # WordPiece: a word of too many characters is one unknown token, however it goes on

    def _end_of_long_word(self, text: str, start: int) -> int:
        """Where the word ends that a window ends in; 0 if it is not too long for a token, or nobody knows."""
        end = start + self._window
        if not self._rules.isolates or self._in_added(text, end) or not all(map(_not_in_words().search, self._added)):
            return 0
        word = self._last_word(text[start:end])
        if word is None or len(word) <= self._backend.model.max_input_chars_per_word:
            return 0
        stop = _not_in_words().search(text, end)
        if stop is None:
            return len(text)
        end = stop.start()
        certain = text[end] in self._rules.breaks or self._isolates(text[end])
        return end if certain and not self._in_added(text, end) else 0

    # Unigram: the best path to a place depends on nothing behind it

    def _settled_end(self, text: str, start: int, tokens: int, most: int) -> int:
        """An end with more than `tokens` tokens ahead of it that no continuation can change; 0 if none is found."""
        length = self._window if self._rules.breaks else most
        while length < most:
            length = min(2 * length, most)
            end = next((p for p in range(start + length, start + length // 2, -1) if self._parts_at(text, p)), 0)
            if not end:
                return 0
            ids = self._encode(text[start:end])
            if len(ids) > tokens and self._settled(text[start:end], ids, tokens) > tokens:
                return end
        return 0

    def _parts_at(self, text: str, position: int) -> bool:
        return is_boundary(text[position - 1], text[position]) and not self._in_added(text, position)

    def _settled(self, text: str, ids: list[int], tokens: int) -> int:
        """How many of the ids every continuation has, if they are more than `tokens`.

        That is up to where the best paths to all of the last places meet: a piece has at most so many characters, so
        that one of as many last places is on the best path of the whole, whatever follows. The tokens of a beginning
        of a word are the best path to its end.
        """
        word = self._last_word(text)
        if word is None:
            return 0
        model = self._backend.model
        path = model.tokenize(word)
        if ids[-len(path) :] != [token.id for token in path]:
            return 0
        settled, ends = 0, {token.offsets[1] for token in path}
        for less in range(1, self._longest_piece):
            ends &= {token.offsets[1] for token in model.tokenize(word[:-less])}
            meeting = max(ends, default=0)
            settled = len(ids) - sum(token.offsets[1] > meeting for token in path)
            if settled <= tokens:
                break
        return settled

    def _last_word(self, text: str) -> str | None:
        """The word that the text ends in, normalised; None if it ends in none."""
        begin = max((found + len(token) for token in self._added if (found := text.rfind(token)) >= 0), default=0)
        words = self._words(text[begin:])
        return words[-1] if words and not text[-1].isspace() else None

    def _words(self, text: str) -> list[str]:
        normalizer, pre_tokenizer = self._backend.normalizer, self._backend.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]


def is_boundary(left: str, right: str) -> bool:
    """Whether two characters are normalised alike together and apart, whatever stands around them.

    Then no normalisation form composes or reorders across, and no grapheme cluster holds both. Some pairs of which
    that is true as well are left out.

    Example:
        >>> is_boundary("e", "f"), is_boundary("e", "\u0301"), is_boundary("ᄀ", "ᅡ")
        (True, False, False)
    """
    if left.isascii() and right.isascii():
        return left.isprintable() and left != " " and (right.isprintable() or right in "\n\t")
    before, after = unicodedata.category(left), unicodedata.category(right)
    if before[0] not in "LNPS" or left in _PREPENDED or "\U0001f1e6" <= left <= "\U0001f1ff":
        return False
    if after[0] not in "LNPSZ" and right not in "\n\t":
        return False
    if after == "Sk" and not right.isascii():
        return False
    first, last = unicodedata.normalize("NFKC", right)[0], unicodedata.normalize("NFKC", left)[-1]
    if unicodedata.category(first)[0] == "M" or last.isspace():
        return False
    return not any(a <= ord(character) <= b for a, b in _COMPOSED for character in (first, right))


def _parts(component: Any) -> Iterator[dict[str, Any]]:
    """The settings of a normalizer or a pre-tokenizer, of a sequence those of its members."""
    if component is None:
        return
    settings = json.loads(component.__getstate__())
    yield from _flat(settings)


def _flat(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if settings.get("type") == "Sequence":
        for member in settings.get("normalizers") or settings.get("pretokenizers") or ():
            yield from _flat(member)
    else:
        yield settings


def _rules(normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]], backend: Tokenizer) -> _Rules:
    """What is known of a pipeline; nothing of one with other parts than these."""
    collapses = False
    for settings in normalizers:
        if settings == _COLLAPSE:
            collapses = True
        elif settings["type"] == "Strip":
            if settings["strip_left"]:
                return _Rules()
        elif settings["type"] not in _FORMS:
            return _Rules()
    kinds = [settings["type"] for settings in pre_tokenizers]
    if kinds == ["BertPreTokenizer"]:
        return _Rules(" \n\t", collapses=True, isolates=True)
    if kinds == ["ByteLevel"] and pre_tokenizers[0]["use_regex"]:
        return _Rules(" ")
    if kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]) and pre_tokenizers[-1]["split"]:
        if len(kinds) == 2:
            return _Rules(" \n\t", collapses=True)
        normalizer = backend.normalizer
        spaces = [c for c in "\n\t" if normalizer and normalizer.normalize_str(f"a{c}b") in ("a b", "a▁b")]
        return _Rules("".join([" ", *spaces]), collapses=collapses)
    return _Rules()


@cache
def _not_in_words() -> re.Pattern[str]:
    """What may end a word of BERT's: anything but letters, marks, numbers, and symbols and formats beyond ASCII."""
    ideographs = {number for first, last in _IDEOGRAPHS for number in range(first, last + 1)}
    inert = (
        number
        for number in range(0x80, sys.maxunicode + 1)
        if (kind := unicodedata.category(chr(number)))[0] in "LMNS" or kind == "Cf"
        if number not in ideographs
    )
    runs = (list(run) for _, run in groupby(enumerate(inert), lambda pair: pair[1] - pair[0]))
    ranges = "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)
    return re.compile(f"[^0-9A-Za-z{ranges}]")
