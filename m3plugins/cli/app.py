"""The verbs of `m3`, and their error messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer
from typer.main import get_command

from m3plugins.cli.copy import copy
from m3plugins.cli.delete import delete
from m3plugins.cli.doctor import doctor
from m3plugins.cli.errors import Interrupted
from m3plugins.cli.evaluate import evaluate
from m3plugins.cli.index import index
from m3plugins.cli.indexes import info, list_indexes
from m3plugins.cli.printing import complain, message, messages_alone, print_json, say, show_traceback
from m3plugins.cli.search import search
from m3plugins.cli.serve import serve
from m3plugins.cli.train import train
from m3plugins.cli.versions import installed

COMMANDS = "m3plugins.commands"
"""Entry point group of further verbs: functions with typer's annotations that return an exit code or None."""

_VERBS: dict[str, Callable[..., int | None]] = {
    "index": index,
    "search": search,
    "info": info,
    "list": list_indexes,
    "delete": delete,
    "copy": copy,
    "evaluate": evaluate,
    "train": train,
    "serve": serve,
    "doctor": doctor,
}

_AFTER_INTERRUPT = {
    "index": "run the same command again: it goes on, and encodes nothing that is stored",
    "copy": "run the same command again: it goes on, and copies nothing that is there",
    "enrich": "run the same command again: it goes on",
    "evaluate": "run the same command again: what is in an engine by now is kept",
    "delete": "run the same command again: it deletes the rest",
}
"""Advice after Ctrl-C, by verb."""

_INTERRUPTED = 130
"""The exit code that typer gives to Ctrl-C."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code; errors become one line on stderr, and with `--json` an object as well.

    Set `M3_DEBUG=1` to see the traceback instead.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with messages_alone():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    try:
        command = get_command(build(arguments))
        code = command.main(list(arguments) or ["--help"], prog_name="m3", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: let the exit be quiet
        return 1
    except Exception as err:
        if os.environ.get("M3_DEBUG"):
            sys.excepthook = show_traceback
            raise
        return _fail(_message(err), getattr(err, "exit_code", 1), as_json=as_json)
    if code == _INTERRUPTED:
        after = _AFTER_INTERRUPT.get(next(iter(arguments), ""))
        return _fail(f"interrupted; {after}" if after else "interrupted", Interrupted.exit_code, as_json=as_json)
    return int(code)


def build(arguments: Sequence[str]) -> typer.Typer:
    """Builds the application of the verbs here and, unless one of them was asked for, those of other distributions."""
    app = typer.Typer(
        help="BGE-M3 retrieval: dense, sparse and multi-vector.", add_completion=False, rich_markup_mode="markdown"
    )
    for name, verb in _VERBS.items():
        app.command(name)(verb)
    app.callback()(_global)
    asked = next(iter(arguments), "--help")
    if asked not in _VERBS:
        for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
            if point.name == asked:
                app.command(point.name)(point.load())
            elif asked == "--help":
                _list(app, point)
    return app


def _show_versions(asked: bool) -> None:
    if asked:
        for name, version in installed().items():
            say(f"{name} {version}")
        raise typer.Exit


def _global(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_show_versions,
            is_eager=True,
            help="Show the versions of m3plugins and its integrations.",
        ),
    ] = False,
) -> None:
    """BGE-M3 retrieval: dense, sparse and multi-vector."""


def _list(app: typer.Typer, point: EntryPoint) -> None:
    """Adds a verb for `m3 --help`, where one that cannot be imported must not hide the others."""
    try:
        app.command(point.name)(point.load())
    except Exception as err:
        app.command(point.name, help=f"cannot be imported: {message(_message(err))}")(lambda: None)


def _message(err: Exception) -> str:
    """Puts an error into one line: our own and the system's as they are, others with their type."""
    if hasattr(err, "format_message"):  # typer's own, about the call
        return f"{err.format_message().rstrip('.')}; see m3 --help"
    text = str(err).strip()
    ours = isinstance(err, (ValueError, OSError, ImportError, Interrupted))
    return text if text and ours else f"{type(err).__name__}: {text}"


def _fail(reason: str, code: int, *, as_json: bool) -> int:
    if as_json:
        print_json({"error": message(reason)})
    complain(reason)
    return code
