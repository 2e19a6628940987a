"""Files to texts with a title and headings: plain text, Markdown, HTML and reStructuredText."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISREG

from m3plugins.loaders.page import Page

__all__ = ["SUFFIXES", "Page", "installed", "load"]

_FORMATS = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".rst": "restructuredtext",
}
_PACKAGES = {"markdown": "markdown_it", "html": "bs4", "restructuredtext": "docutils"}

SUFFIXES = tuple(_FORMATS)
"""Endings of file names that `load` knows, in lower case."""


def installed(suffix: str) -> bool:
    """Tells whether files of this ending can be read with the packages that are there, or need the extra `loaders`."""
    package = _PACKAGES.get(_FORMATS[suffix.lower()])
    return package is None or find_spec(package) is not None


def load(path: Path) -> Page:
    """Loads the text of a file, by the ending of its name; nothing in it is executed, included or fetched.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is of no known kind, or not what its name says.
        ImportError: If the extra `loaders` is needed and not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        msg = f"a file must end in {', '.join(SUFFIXES)}, got {path.name}"
        raise ValueError(msg)
    if not S_ISREG(path.stat().st_mode):
        msg = "it is not a regular file"  # reading a pipe would never end
        raise ValueError(msg)
    page: Page = import_module(f"{__name__}.{_FORMATS[suffix]}").parse(path.read_bytes())
    return page
