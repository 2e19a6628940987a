"""What verbs print: text of documents and errors reaches a terminal as text, never as commands to it."""

from __future__ import annotations

import json

import typer

_JOINERS = "\u200c\u200d"
"""Zero-width characters that Persian, the Indic scripts and emoji are written with."""


def printable(text: str) -> str:
    r"""The text on one line, without control, bidirectional, private and unassigned characters.

    Example:
        >>> printable("a\x1b[31mb\n c")
        'a[31mb c'
    """
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace() or c in _JOINERS).split())


def say(line: str, *, indent: int = 0) -> None:
    """Prints a line of text, after so many spaces."""
    typer.echo(" " * indent + printable(line))


def complain(line: str) -> None:
    """Prints a line of text on stderr, with the name of the command before it."""
    typer.echo(f"m3: {printable(line)}", err=True)


def print_json(value: object) -> None:
    """Prints one JSON value on one line, with what is not printable as escapes."""
    typer.echo(escaped(json.dumps(value, ensure_ascii=False)))


def escaped(text: str) -> str:
    r"""JSON with what is not printable as `\uXXXX`: json.dumps leaves the controls above U+007E as they are.

    Example:
        >>> print(escaped('"\x9b31m狐"'))
        "\u009b31m狐"
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
