"""Calls that are under way while the results of earlier ones are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(call: Callable[[T], R], items: Iterable[T], at_once: int) -> Generator[R, None, None]:
    """What the call returns for each item, in their order; some more are called meanwhile, in threads.

    Args:
        call: Called with each item.
        items: Read one further than there are calls under way.
        at_once: How many calls there are at a time.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix="m3-ahead") as pool:
        under_way: deque[Future[R]] = deque()
        for item in items:
            under_way.append(pool.submit(call, item))
            if len(under_way) > at_once:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
