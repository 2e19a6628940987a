"""HTML, as the text that a reader sees, a block a line."""

from __future__ import annotations

import codecs
import re
from dataclasses import replace

from m3plugins.indexing.document import Heading
from m3plugins.loaders.page import Page, decode

try:
    from bs4 import BeautifulSoup, Tag
    from bs4.dammit import EncodingDetector
    from bs4.element import Comment, Declaration, Doctype, NavigableString, ProcessingInstruction
    from bs4.exceptions import ParserRejectedMarkup
except ImportError as err:
    msg = 'HTML needs beautifulsoup4: pip install "m3plugins[loaders]"'
    raise ImportError(msg) from err

_MARKUP = (Comment, Declaration, Doctype, ProcessingInstruction)
_UNREAD = ["script", "style", "template"]
_HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
_BLOCKS = set(
    "address article aside blockquote body br caption center dd details dialog div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main menu nav ol option p pre section summary table "
    "tbody tfoot thead title tr ul".split()
)
_CELLS = {"td", "th"}
_AS_BROWSERS_DO = {  # https://encoding.spec.whatwg.org
    "iso8859-1": "cp1252", "ascii": "cp1252", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8"
}  # fmt: skip


def parse(data: bytes) -> Page:
    """Parses the text without scripts, styles and comments; the title is <title>, or else the first heading.

    The encoding is that of a byte order mark, the one that is declared, or UTF-8.
    """
    try:
        soup = BeautifulSoup(decode(data, _declared(data)), "html.parser")
    except (ParserRejectedMarkup, RecursionError) as err:
        msg = f"not readable as HTML: {err}"
        raise ValueError(msg) from err
    named = next((tag for tag in soup("title") if tag.find_parent("svg") is None), None)  # a drawing has its own
    title = " ".join(named.extract().get_text().split()) if named else ""
    for tag in soup(_UNREAD):
        tag.extract()
    text = _Text()
    _write(soup, text)
    content = "".join(text.parts).rstrip()
    headings = tuple(
        replace(heading, end=min(heading.end, len(content)))
        for heading in text.headings
        if heading.text  # an empty one divides nothing
    )
    return Page(content, title or (headings[0].text if headings else ""), headings)


def _declared(data: bytes) -> str:
    name = EncodingDetector.find_declared_encoding(data, is_html=True) or "utf-8"
    try:
        known = codecs.lookup(name).name
    except LookupError:
        return name  # `decode` says so
    return _AS_BROWSERS_DO.get(known, known)


def _write(soup: BeautifulSoup, text: _Text) -> None:
    """Walks the tree without recursion, which pages nest deeper than Python does."""
    open_tags: list[Tag] = []
    for node in soup.descendants:
        while open_tags and node.parent is not open_tags[-1]:
            text.close(open_tags.pop())
        if isinstance(node, Tag):
            open_tags.append(node)
            text.open(node)
        elif isinstance(node, NavigableString) and not isinstance(node, _MARKUP):
            text.add(node)
    while open_tags:
        text.close(open_tags.pop())


class _Text:
    """Collects text: whitespace is one space, but in <pre>, and a block starts a line."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.headings: list[Heading] = []
        self._length = 0
        self._end = "\n"  # the last character
        self._pre = 0
        self._started: list[tuple[int, int]] = []  # where the open headings start: in the text, among the parts

    def open(self, tag: Tag) -> None:
        self._break(tag)
        if tag.name in _CELLS and not self._end.isspace():
            self._put(" ")
        self._pre += tag.name == "pre"
        if tag.name in _HEADINGS:
            self._started.append((self._length, len(self.parts)))

    def close(self, tag: Tag) -> None:
        self._pre -= tag.name == "pre"
        if tag.name in _HEADINGS:
            start, part = self._started.pop()
            title = " ".join("".join(self.parts[part:]).split()).rstrip("¶ ")  # the mark of a link to itself
            if not self._started:
                self.headings.append(Heading(start, self._length, title))
        self._break(tag)

    def add(self, string: str) -> None:
        text = string if self._pre else re.sub(r"\s+", " ", string)
        if not self._pre and self._end.isspace():
            text = text.lstrip()
        self._put(text)

    def _break(self, tag: Tag) -> None:
        if tag.name in _BLOCKS and self._end != "\n":
            self._put("\n")

    def _put(self, text: str) -> None:
        if text:
            self.parts.append(text)
            self._length += len(text)
            self._end = text[-1]
