"""Long texts to passages: whole sentences, packed up to a number of tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.shortening import Shortener
from m3plugins.encoding.text import stripped
from m3plugins.encoding.tokenizing import check_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SLAB_CHARACTERS = 8192
"""Characters segmented at a time: sentencex takes quadratic time on a paragraph of many sentences."""

_WINDOW_CHARACTERS = 1 << 16
"""Characters of a long text that are cut at a time."""

_CHARACTERS_PER_TOKEN = 32
"""More than tokens have, other than of unknown characters: a window takes in several passages."""

_COUNTED = 1 << 12
"""Pieces counted at a time."""

_TINY = 4
"""Fraction of a passage's size below which a section shares its passage with the next one."""


@dataclass(frozen=True)
class Passages:
    """How long texts are cut into passages.

    A passage is a run of whole sentences. Only a sentence of more than `size` tokens is itself cut: ahead
    of a word, or anywhere in a word that is too long as well. Nothing is lost but whitespace around passages.

    A passage ends ahead of a heading, where the text's are known, unless it has less than a quarter of `size`
    tokens by then.

    Attributes:
        size: Tokens of a passage at most, special tokens not counted, as the encoder's tokenizer counts them
            in the passage on its own. Only a single character may have more.
        overlap: Tokens at most with which a passage repeats the end of the one before: as many whole
            sentences (of a sentence that was cut, words) as leave room for the next one; nothing ahead of a heading.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("overlap", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                msg = f"{name} must be an integer >= {least} (tokens), got {value!r}"
                raise ValueError(msg)
        if self.overlap >= self.size:
            msg = f"overlap must be less than size, got overlap={self.overlap} and size={self.size}; take less overlap"
            raise ValueError(msg)

    def split(self, text: str, encoder: M3Encoder) -> list[str]:
        """The passages of a text, in order; at least one, which is empty if the text is blank.

        Args:
            text: The text.
            encoder: The encoder that is to read the passages.

        Raises:
            TypeError: If the text is not a string.
            ValueError: If the text is not valid Unicode, or the encoder would cut passages of this size.
            ImportError: If the extra `passages` is not installed.
        """
        return [text[start:end] for start, end in self.spans(text, encoder)]

    def spans(self, text: str, encoder: M3Encoder, headings: Iterable[int] = ()) -> list[tuple[int, int]]:
        """Where the passages of a text start and end, in order; see `split`.

        Args:
            text: The text.
            encoder: The encoder that is to read the passages.
            headings: Where in the text headings start.
        """
        layout = encoder.document_layout
        longest = layout.text_tokens
        if layout.prompt:
            longest -= len(encoder.tokenizer.encode(layout.prompt, add_special_tokens=False))
        if self.size > longest:
            msg = (
                f"size must be at most {longest}, the tokens of text that {encoder.model} reads of a document, "
                f"got {self.size}; take a smaller size or raise document_max_length"
            )
            raise ValueError(msg)
        check_text(text)
        _segmenter()  # wanted even where this text needs none, so that its lack shows at once
        return [
            span
            for section in self._sections(text, headings, encoder.tokenizer)
            for span in self._cut(text, *section, encoder.tokenizer)
        ]

    def _sections(self, text: str, headings: Iterable[int], tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
        """Parts of a text that begin at a heading, without whitespace around them; none is small but the last."""
        shortener = Shortener(tokenizer)
        start, end = stripped(text, 0, len(text))
        for heading in sorted(set(headings)):
            if start < heading < end:
                section = stripped(text, start, heading)
                begin, _ = shortener.shorten(text[slice(*section)], self.size // _TINY)
                if _TINY * len(tokenizer.encode(begin, add_special_tokens=False)) >= self.size:
                    yield section
                    start = heading
        yield stripped(text, start, end)

    def _cut(self, text: str, start: int, end: int, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
        """Where the passages of a section are, which has no whitespace around it.

        Of a long one a window is cut at a time. The last passage of a window may go on behind it: the next window
        begins with it.
        """
        length = max(_WINDOW_CHARACTERS, _CHARACTERS_PER_TOKEN * self.size)
        while end - start > length:
            window = stripped(text, start, start + length)
            spans = [(start + first, start + last) for first, last in self._cut_window(text[slice(*window)], tokenizer)]
            if len(spans) == 1:
                yield window
                start, _ = stripped(text, window[1], end)
            else:
                yield from spans[:-1]
                start = spans[-1][0]
        for first, last in self._cut_window(text[start:end], tokenizer):
            yield start + first, start + last

    def _cut_window(self, text: str, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
        """Where the passages of a text are, which has no whitespace around it."""
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding) <= self.size:
            yield 0, len(text)
            return
        ends = list(accumulate((end for _, end in encoding.offsets), max))
        yield from self._pack(_Pieces(text, ends, tokenizer, self.size))

    def _pack(self, pieces: _Pieces) -> Iterator[tuple[int, int]]:
        first = last = 0
        while last < len(pieces):
            last = max(last + 1, pieces.last_within(first, self.size))
            while last > first + 1 and pieces.tokens(first, last) > self.size:
                last -= 1
            yield pieces.span(first, last)
            if last < len(pieces):
                first = self._resume(pieces, first + 1, last) if self.overlap else last

    def _resume(self, pieces: _Pieces, first: int, last: int) -> int:
        """Where the next passage starts: it repeats what it can and still gets piece `last` in."""
        first = max(first, pieces.first_within(last, self.overlap), pieces.first_within(last + 1, self.size))
        while first < last and (
            pieces.tokens(first, last) > self.overlap or pieces.tokens(first, last + 1) > self.size
        ):
            first += 1
        return min(first, last)


class _Pieces:
    """A text in pieces of at most `size` tokens: sentences, of longer ones the words, of longer words the characters.

    Tokens are not additive: what the whole text's tokens say of a run of pieces is an estimate; `tokens` counts.

    Args:
        text: Without whitespace around it.
        ends: Where each token of the text ends, ascending.
        tokenizer: Counts.
        size: Tokens of a piece at most; a single character may have more.
    """

    def __init__(self, text: str, ends: Sequence[int], tokenizer: Tokenizer, size: int) -> None:
        self._text = text
        self._tokenizer = tokenizer
        self._bounds = [0, len(text)]
        for cut in (_sentences, _words, _characters):
            self._bounds = self._cut(cut, size)
        self._before = [bisect_right(ends, bound) for bound in self._bounds]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def text(self, first: int, last: int) -> str:
        """Pieces `first` to `last`, without the latter, on their own."""
        return self._text[slice(*self.span(first, last))]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Where `text(first, last)` starts and ends."""
        return stripped(self._text, self._bounds[first], self._bounds[last])

    def tokens(self, first: int, last: int) -> int:
        """Tokens of `text(first, last)`."""
        return self._count([self.text(first, last)])[0]

    def last_within(self, first: int, tokens: int) -> int:
        """The largest `last` for that many tokens, estimated."""
        return bisect_right(self._before, self._before[first] + tokens) - 1

    def first_within(self, last: int, tokens: int) -> int:
        """The smallest `first` for that many tokens, estimated."""
        return bisect_left(self._before, self._before[last] - tokens)

    def _cut(self, cut: Callable[[str], Iterable[int]], size: int) -> list[int]:
        """The bounds, with those that cut the pieces of more than `size` tokens; none ahead of mere whitespace."""
        bounds = set(self._bounds)
        counts = self._count([self.text(piece, piece + 1) for piece in range(len(self))])
        for (start, end), count in zip(pairwise(self._bounds), counts, strict=True):
            if count > size:
                bounds.update(start + position for position in cut(self._text[start:end]))
        spans = pairwise(sorted(bounds))
        return [start for start, end in spans if not self._text[start:end].isspace()] + [len(self._text)]

    def _count(self, texts: list[str]) -> list[int]:
        batches = (texts[start : start + _COUNTED] for start in range(0, len(texts), _COUNTED))
        encode = self._tokenizer.encode_batch_fast
        return [len(encoding) for batch in batches for encoding in encode(batch, add_special_tokens=False)]


def check_packages() -> None:
    """Refuses to cut where what finds sentences, or words in those that are too long, is not installed.

    Raises:
        ImportError: If it is not.
    """
    missing = [name for name in ("sentencex", "regex") if find_spec(name) is None]
    if missing:
        msg = f'passages need {" and ".join(missing)}; pip install "m3plugins[passages]"'
        raise ImportError(msg)


def _segmenter() -> Callable[[str, str], list[dict[str, Any]]]:
    check_packages()
    from sentencex import get_sentence_boundaries

    segment: Callable[[str, str], list[dict[str, Any]]] = get_sentence_boundaries
    return segment


def _sentences(text: str) -> Iterator[int]:
    """Where sentences end, by the punctuation of all scripts and the abbreviations of English."""
    segment = _segmenter()
    start = 0
    while start < len(text):
        slab = text[start : start + _SLAB_CHARACTERS]
        ends = [boundary["end_index"] for boundary in segment("en", slab)]
        if start + len(slab) < len(text) and len(ends) > 1:
            ends.pop()  # it may go on in the next slab
        yield from (start + end for end in ends)
        start += ends[-1]


def _words(text: str) -> Iterator[int]:
    """Where words start (Unicode Standard Annex 29); closing punctuation stays with the word before."""
    import regex

    return (match.start() for match in regex.finditer(r"(?w)\b(?![\p{Pe}\p{Pf}\p{Po}\s])", text))


def _characters(text: str) -> Iterable[int]:
    return range(len(text))
