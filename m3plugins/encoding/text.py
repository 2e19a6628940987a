"""Facts of a text of any length, without a copy of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SLAB = 1 << 20
_LINE = 1 << 12
_INK = re.compile(r"\S")


def slabs(text: str, size: int = _SLAB) -> Iterator[str]:
    """The text in parts of so many characters; itself if it has no more."""
    return (text[start : start + size] for start in range(0, len(text), size))


def lone_surrogate(text: str) -> int | None:
    r"""Where a text that is not valid Unicode has its first lone surrogate; None if it is valid.

    Example:
        >>> lone_surrogate("fox"), lone_surrogate("fo\ud83dx")
        (None, 2)
    """
    if text.isascii():
        return None
    before = 0
    for slab in slabs(text):
        try:
            slab.encode()
        except UnicodeEncodeError as err:
            return before + err.start
        before += len(slab)
    return None


def check_unicode(name: str, text: str) -> None:
    """Refuses a string that UTF-8 cannot encode; the error calls it by the given name.

    Raises:
        ValueError: If it has a lone surrogate.
    """
    if (surrogate := lone_surrogate(text)) is not None:
        msg = (
            f"{name} must be valid Unicode, got a lone surrogate at character {surrogate}; repair the text first, "
            'as in text.encode("utf-8", "replace").decode()'
        )
        raise ValueError(msg)


def utf8_length(text: str) -> int:
    """Bytes of a valid text in UTF-8.

    Example:
        >>> utf8_length("naïve")
        6
    """
    return len(text) if text.isascii() else sum(len(slab.encode()) for slab in slabs(text))


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without whitespace at its ends.

    Example:
        >>> stripped("  a fox ", 0, 8), stripped("   ", 0, 3)
        ((2, 7), (3, 3))
    """
    found = _INK.search(text, start, end)
    if found is None:
        return end, end
    while not (kept := text[max(found.start(), end - _LINE) : end].rstrip()):
        end -= _LINE
    return found.start(), max(found.start(), end - _LINE) + len(kept)


def is_blank(text: str, start: int, end: int) -> bool:
    """Whether the span has nothing but whitespace."""
    return _INK.search(text, start, end) is None
