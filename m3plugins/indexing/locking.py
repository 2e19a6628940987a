"""Locks by document: a document of several rows is replaced, or deleted, by one thread at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from m3plugins.encoding.forking import renew_after_fork

TURNS = 12
"""How often a document is written again while another process writes it, too."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0


class DocumentLocks:
    """The documents of one index that threads of this process are replacing."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forgets who holds what: in a forked process these threads are not."""
        self._released = threading.Condition()
        self._held: set[str] = set()

    @contextmanager
    def holding(self, ids: Collection[str]) -> Iterator[None]:
        """Waits until no other thread holds one of these documents, and holds all of them meanwhile.

        They are taken in one step, so that two callers cannot wait for each other. Not reentrant.
        """
        wanted = set(ids)
        with self._released:
            self._released.wait_for(lambda: self._held.isdisjoint(wanted))
            self._held |= wanted
        try:
            yield
        finally:
            with self._released:
                self._held -= wanted
                self._released.notify_all()


_registry = threading.Lock()
_shared: WeakValueDictionary[tuple[str, ...], DocumentLocks] = WeakValueDictionary()


def shared_locks(*place: str) -> DocumentLocks:
    """The locks that all who have an index open in this process share.

    Args:
        place: What tells the index from any other.
    """
    with _registry:
        return _shared.setdefault(place, DocumentLocks())


def pause(turn: int) -> None:
    """Lets another process finish: a random time, longer with each turn from the first, 0, on."""
    time.sleep(random.uniform(0, min(_FIRST_PAUSE_S * 2**turn, _LONGEST_PAUSE_S)))
