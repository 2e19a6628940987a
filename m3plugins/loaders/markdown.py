"""Markdown: the text as it is written, with the places of its headings."""

from __future__ import annotations

import re
from itertools import accumulate

from m3plugins.indexing.document import Heading
from m3plugins.loaders.page import Page, decode

try:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
except ImportError as err:
    msg = 'Markdown needs markdown-it-py: pip install "m3plugins[loaders]"'
    raise ImportError(msg) from err

_FRONT_MATTER = re.compile(r"---\n(?=.*\S)(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_TITLE = re.compile(
    r"""^title:[ \t]+(?:"([^"\\\n]+)"|'([^'\n]+)'|([^\s"'#&*!|>%@`{\[].*?))[ \t]*(?:[ \t]\#.*)?$(?!\n[ \t])""",
    re.MULTILINE,
)
"""A title in YAML that is a string on one line; what else YAML allows is left alone."""

_BLOCKS = MarkdownIt("commonmark").disable("inline")


def parse(data: bytes) -> Page:
    """Parses the text, markup included; the title is that of the front matter, or else the first heading."""
    text = decode(data)
    front = _FRONT_MATTER.match(text)
    above = front.end() if front else 0  # its comments look like headings
    lines = list(accumulate(map(len, text[above:].split("\n")), lambda end, length: end + 1 + length))
    starts = [above, *(above + end + 1 for end in lines)]
    tokens = _BLOCKS.parse(text[above:])
    headings = [
        Heading(starts[token.map[0]], min(starts[token.map[1]], len(text)), _plain(content.content))
        for token, content in zip(tokens, tokens[1:], strict=False)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]
    headings = [heading for heading in headings if heading.text]
    named = _TITLE.search(text, 0, above)
    title = next(filter(None, named.groups())) if named else headings[0].text if headings else ""
    return Page(text, title, tuple(headings))


def _plain(markdown: str) -> str:
    """Strips emphasis, links and the like from a heading."""
    (inline,) = MarkdownIt("commonmark").parseInline(markdown)
    return " ".join(_text(inline.children or []).split())


def _text(tokens: list[Token]) -> str:
    return "".join(
        " " if token.type == "softbreak" else token.content for token in tokens if token.type != "html_inline"
    )
