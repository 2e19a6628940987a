"""What a fork leaves behind: the memory of the parent, and of its threads only the one that forked."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol, TypeVar
from weakref import WeakSet

R = TypeVar("R")

ON_ACCELERATOR = (
    "this process was forked from one that has the model on an accelerator, which only that one can use; "
    'start processes with multiprocessing\'s "spawn", or load the model after the fork'
)


class ForkError(RuntimeError):
    """Something cannot be used in a forked process."""


class Survivor(Protocol):
    """An object that forked processes go on using."""

    def renew(self) -> None:
        """Replaces locks, which a thread of the parent may hold for ever, and threads, which are gone."""


class Locked(Protocol):
    """An object whose lock is held while it changes, and for no longer."""

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """The lock."""


_survivors: WeakSet[Survivor] = WeakSet()
_locked: WeakSet[Locked] = WeakSet()
_held: list[ExitStack] = []
_forked = False


def renew_after_fork(survivor: Survivor) -> None:
    """Has the object renewed in each forked process, before anything else runs there; it is held weakly."""
    _survivors.add(survivor)


def held_over_fork(locked: Locked) -> None:
    """Has a fork wait until no thread changes the object, so that children find it whole; it is held weakly."""
    _locked.add(locked)


def is_forked() -> bool:
    """Whether this process is a fork of one that had this module."""
    return _forked


def in_live_thread(call: Callable[[], R]) -> R:
    """What the call returns; in a forked process another thread makes it.

    A thread that computed with torch before the fork counts on its OpenMP team, whose threads the child has not, and
    waits for them for ever. A new thread has a team of its own.
    """
    if not _forked:
        return call()
    with ThreadPoolExecutor(1, thread_name_prefix="m3-forked") as pool:
        return pool.submit(call).result()


def _before() -> None:
    held = ExitStack()
    for locked in _locked:
        held.enter_context(locked.lock)
    _held.append(held)


def _after() -> None:
    _held.pop().close()


def _renew() -> None:
    global _forked
    _forked = True
    _after()
    for survivor in _survivors:
        survivor.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_renew)
