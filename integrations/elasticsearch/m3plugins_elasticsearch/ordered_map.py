"""A concurrent map that keeps the order of its items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(call: Callable[[T], R], items: Iterable[T], at_once: int) -> Generator[R, None, None]:
    """Yields the result of a call for each item, in their order, while threads make the next calls.

    Args:
        call: The call to make with each item.
        items: The items, which are read one further than there are calls under way.
        at_once: Number of calls at a time.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix="m3-ordered-map") as pool:
        under_way: deque[Future[R]] = deque()
        for item in items:
            under_way.append(pool.submit(call, item))
            if len(under_way) > at_once:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
