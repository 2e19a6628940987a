"""Calls in a forked process."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

R = TypeVar("R")

SECONDS = 60
"""More than any call takes: what is not done by then hangs."""


def in_child(call: Callable[[], R]) -> R:
    """What the call returns, or raises, in a process forked now."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_tell, args=(call, theirs))
    child.start()
    theirs.close()
    try:
        assert ours.poll(SECONDS), "the call hangs in a forked process"
        result = pickle.loads(ours.recv_bytes())
    finally:
        child.kill()
        child.join()
    if isinstance(result, Exception):
        raise result
    return result


def _tell(call: Callable[[], object], pipe: Connection) -> None:
    try:
        result = call()
    except Exception as err:
        result = err
    pipe.send_bytes(pickle.dumps(result))
