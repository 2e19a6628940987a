"""Plain text: it has neither title nor headings."""

from m3plugins.loaders.page import Page, decode


def parse(data: bytes) -> Page:
    """Decodes a file in UTF-8, or in UTF-16 with a byte order mark."""
    return Page(decode(data))
