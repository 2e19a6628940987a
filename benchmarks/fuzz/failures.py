"""Failures: what counts as one, and how they are told apart."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from m3plugins.cli.printing import printable

ROOT = Path(__file__).parents[2]
_PACKAGES = (str(ROOT / "m3plugins"), str(ROOT / "integrations"))
_LONGEST = 2_000


class Failure(Exception):
    """A promise that was not kept.

    Attributes:
        kind: The class of failures: what is wrong, and where, without what differs from case to case.
        detail: The values that were seen.
    """

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, str(detail)


def failure(kind: str, detail: object = "") -> Failure:
    """A failure whose type is its kind's own, by which Hypothesis tells one from another while it shrinks."""
    return _type(kind)(kind, detail)


@cache
def _type(kind: str) -> type[Failure]:
    return type("Failure", (Failure,), {"__doc__": kind})


def require(kept: object, kind: str, detail: object = "") -> None:
    """Raises a failure unless the promise was kept."""
    if not kept:
        raise failure(kind, detail)


def refused(error: BaseException, names: Iterable[str], kinds: tuple[type[Exception], ...], *, lines: int = 1) -> None:
    """Checks that an error is one that we document: of these kinds, short, naming what is wrong.

    Args:
        error: The error that was raised.
        names: The message must have one of them.
        kinds: The documented types.
        lines: Most lines of the message.
    """
    said = f"{type(error).__name__}: {error}"
    fault = _fault(error, names, kinds, lines)
    require(fault is None, f"{fault} ({type(error).__name__} in {site(error)})", said[:_LONGEST])


def _fault(error: BaseException, names: Iterable[str], kinds: tuple[type[Exception], ...], lines: int) -> str | None:
    message = str(error)
    if not isinstance(error, kinds) or isinstance(error, (KeyError, IndexError)):
        return "an undocumented error"
    if message.count("\n") >= lines or len(message) > _LONGEST * lines:
        return "an error that is too long"
    if not any(name in message or repr(name)[1:-1] in message for name in names):
        return "an error that names nothing"
    return None


def site(error: BaseException) -> str:
    """The function of ours that an error came out of."""
    return ours((frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__))


def ours(frames: Iterable[tuple[str, str]]) -> str:
    """The last function of ours among those of a stack, given as file and name."""
    found = [(file, name) for file, name in frames if file.startswith(_PACKAGES)]
    return f"{Path(found[-1][0]).relative_to(ROOT)}:{found[-1][1]}" if found else "code of others"


def plain(line: str) -> bool:
    """Tells whether a terminal shows a line as it is."""
    return printable(line) == " ".join(line.split()) and len(line) <= _LONGEST
