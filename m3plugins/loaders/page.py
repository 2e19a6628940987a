"""The content that every format comes to, and the decoding of bytes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from m3plugins.indexing.document import Heading

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Page:
    """The content of a file.

    Attributes:
        text: All text of the file.
        title: The title that the file declares, or else its first heading; "" if it has none.
        headings: The headings, in order.
    """

    text: str
    title: str = ""
    headings: tuple[Heading, ...] = ()


def decode(data: bytes, declared: str = "utf-8") -> str:
    r"""The text of a file: as its byte order mark says, or else as declared.

    Lines end in \n, whatever they ended in.

    Args:
        data: The file.
        declared: An encoding that Python knows.

    Raises:
        ValueError: If it is no text in that encoding.
    """
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), declared)
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError) as err:
        msg = f"not readable as {encoding.upper()} text: {err}; save it as UTF-8"
        raise ValueError(msg) from err
    if "\0" in text or (encoding == "utf-16" and not text):
        msg = f"not readable as {encoding.upper()} text: it looks like binary data; save it as UTF-8, or rename it"
        raise ValueError(msg)
    return text.replace("\r\n", "\n").replace("\r", "\n")
