"""Calls that start at one moment, a thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable

SECONDS = 60
"""More than any call takes: what is not done by then hangs."""


def together(*calls: Callable[[], object]) -> list[object]:
    """What the calls return, or raise."""
    start = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(place: int) -> None:
        start.wait(SECONDS)
        try:
            results[place] = calls[place]()
        except Exception as err:
            results[place] = err

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a call hangs"
    return results
