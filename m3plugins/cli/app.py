"""The verbs of `m3`, and how what goes wrong is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

import typer
from typer.main import get_command

from m3plugins.cli.copy import copy
from m3plugins.cli.doctor import doctor
from m3plugins.cli.evaluate import evaluate
from m3plugins.cli.index import index
from m3plugins.cli.search import search
from m3plugins.cli.train import train

COMMANDS = "m3plugins.commands"
"""Entry point group of further verbs: functions with typer's annotations that return an exit code or None."""

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

_VERBS = (index, search, copy, evaluate, train, doctor)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code; errors become one line on stderr.

    Set `M3_DEBUG=1` to see the traceback instead.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = get_command(build(arguments))
        code = command.main(arguments or ["--help"], prog_name="m3", standalone_mode=False) or 0
        return _fail("interrupted") if code == _INTERRUPTED else code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: let the exit be quiet
        return 1
    except Exception as err:
        if os.environ.get("M3_DEBUG"):
            raise
        return _fail(_message(err), getattr(err, "exit_code", 1))


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application: the verbs here and, unless one of them was asked for, those of other distributions."""
    app = typer.Typer(help="BGE-M3 retrieval: dense, sparse and multi-vector.", add_completion=False)
    for verb in _VERBS:
        app.command()(verb)
    app.callback()(lambda: None)
    asked = next(iter(arguments), "--help")
    if asked not in {verb.__name__ for verb in _VERBS}:
        for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
            if point.name == asked:
                app.command(point.name)(point.load())
            elif asked == "--help":
                _list(app, point)
    return app


def _list(app: typer.Typer, point: EntryPoint) -> None:
    """Adds a verb for `m3 --help`, where one that cannot be imported must not hide the others."""
    try:
        app.command(point.name)(point.load())
    except Exception as err:
        app.command(point.name, help=f"cannot be imported: {_message(err)}")(lambda: None)


def _message(err: Exception) -> str:
    """The error in one line: of ours and of the system as they are, of others with their type."""
    if hasattr(err, "format_message"):  # typer's own, about the call
        return f"{err.format_message().rstrip('.')}; see m3 --help"
    text = " ".join(str(err).split())
    return text if text and isinstance(err, (ValueError, OSError, ImportError)) else f"{type(err).__name__}: {text}"


def _fail(message: str, code: int = 1) -> int:
    typer.echo(f"m3: {message}", err=True)
    return code
