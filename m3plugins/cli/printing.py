"""Output of the verbs: text of documents and errors reaches a terminal as text, never as commands to it."""

from __future__ import annotations

import codecs
import io
import json
import logging
import math
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType

import typer

from m3plugins.indexing.corpus import shortened

_JOINERS = "\u200c\u200d"
"""Zero-width characters that Persian, the Indic scripts and emoji are written with."""

_CREDENTIALS = re.compile(r"(?<=:/)(/?)(?:[^\s/?#]*|[^\s/?#:]*:(?!\d+/)\S*)@")
"""User and password of a URL; what follows a port is its path, and any other colon begins a password."""


def harmless(text: str) -> str:
    r"""Removes control, bidirectional, private and unassigned characters; white space stays.

    Example:
        >>> harmless("a\x1b[31mb\n c")
        'a[31mb\n c'
    """
    return "".join(c for c in text if c.isprintable() or c.isspace() or c in _JOINERS)


def printable(text: str) -> str:
    r"""Puts the harmless text on one line.

    Example:
        >>> printable("a\x1b[31mb\n c")
        'a[31mb c'
    """
    return " ".join(harmless(text).split())


def without_credentials(text: str) -> str:
    """Removes the user and the password from the URLs of a text.

    Example:
        >>> without_credentials("no answer from https://me:secret@example.org/a@b")
        'no answer from https://example.org/a@b'
    """
    return _CREDENTIALS.sub(r"\1", text)


def message(text: str) -> str:
    """Makes a message of a text: printable, of bounded length, without credentials."""
    return printable(shortened(without_credentials(text)))


def say(line: str, *, indent: int = 0) -> None:
    """Prints a line of text, after so many spaces."""
    typer.echo(" " * indent + message(line))


def complain(line: str) -> None:
    """Prints a line of text on stderr, with the name of the command before it."""
    typer.echo(f"m3: {message(line)}", err=True)


def print_json(value: object) -> None:
    """Prints one JSON value on one line, with escapes for what is not printable or what stdout cannot encode."""
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name
    dump = partial(json.dumps, ensure_ascii=encoding != "utf-8", allow_nan=False)
    try:
        text = dump(value)
    except ValueError:
        text = dump(_without_nan(value))
    typer.echo(escaped(text))


def escaped(text: str) -> str:
    r"""Escapes what is not printable in JSON as `\uXXXX`: json.dumps leaves the controls above U+007E as they are.

    Example:
        >>> print(escaped('"\x9b31m狐"'))
        "\u009b31m狐"
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


@contextmanager
def messages_alone() -> Iterator[None]:
    """Makes messages of every library's logs and warnings in the block, where no character stops the printing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    factory, layout = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = lambda text, *args, **kwargs: f"m3: {message(str(text))}\n"
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = layout


def show_traceback(kind: type[BaseException], err: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback, whose error may hold text of documents; a `sys.excepthook`."""
    lines = "".join(traceback.format_exception(kind, err, trace))
    typer.echo(harmless(without_credentials(lines)), err=True, nl=False)


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return message(super().getMessage())


def _without_nan(value: object) -> object:
    """Replaces NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value
