"""reStructuredText: the text of its paragraphs, with the titles of its sections."""

from __future__ import annotations

from collections.abc import Iterator

from m3plugins.indexing.document import Heading
from m3plugins.loaders.page import Page, decode

try:
    from docutils import nodes
    from docutils.core import publish_doctree
except ImportError as err:
    msg = 'reStructuredText needs docutils: pip install "m3plugins[loaders]"'
    raise ImportError(msg) from err

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,  # no configuration from the working folder
    "doctitle_xform": False,
    "docinfo_xform": False,
    "syntax_highlight": "none",
    "line_length_limit": 1 << 30,
    "report_level": 5,  # nothing on stderr; what docutils does not know comes as it is written
    "halt_level": 5,
}

_ERROR = 3
"""Level of messages about what has no place in the document, which they quote."""


def parse(data: bytes) -> Page:
    """Parses the text; no file is included, and nothing raw. The title is the first section's.

    What docutils does not know, such as directives of Sphinx, is kept as it is written.
    """
    source = decode(data)
    try:
        tree = publish_doctree(source, settings_overrides=_SETTINGS)
    except Exception as err:  # of a parser, on anything that a file may hold
        msg = f"not readable as reStructuredText: {type(err).__name__}: {err}"
        raise ValueError(msg) from err
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for node in _blocks(tree):
        text = node.astext().strip()
        if text:
            parts.append(text)
            if isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
                headings.append(Heading(length, length + len(text), " ".join(text.split())))
            length += len(text) + 1
    return Page("\n".join(parts), headings[0].text if headings else "", tuple(headings))


def _blocks(tree: nodes.document) -> Iterator[nodes.TextElement]:
    """Yields the elements that hold text, each once."""
    for node in tree.findall(nodes.TextElement):
        if isinstance(node, nodes.Inline | nodes.Invisible) or _inside_text(node):
            continue
        message = node.parent if isinstance(node.parent, nodes.system_message) else None
        if message and not (isinstance(node, nodes.literal_block) and message["level"] >= _ERROR):
            continue  # docutils' own words, or text that it could read all the same
        yield node


def _inside_text(node: nodes.Node) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.TextElement):
            return True
        parent = parent.parent
    return False
