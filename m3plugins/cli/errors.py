"""The errors that end a verb with an exit code of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CallError(ValueError):
    """What was asked cannot be done as asked: exit code 2. The message says why and what to ask instead."""

    exit_code = 2


class Interrupted(InterruptedError):
    """Somebody pressed Ctrl-C: exit code 130. The message says how to go on."""

    exit_code = 130


@contextmanager
def resumable() -> Iterator[None]:
    """For work that keeps what it has done: Ctrl-C says so.

    Raises:
        Interrupted: Instead of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as err:
        msg = "interrupted; what is done is kept: the same command again goes on where this one stopped"
        raise Interrupted(msg) from err
