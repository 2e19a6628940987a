"""A progress bar for verbs that go through many documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]
"""Told how many more documents are done."""


@contextmanager
def progress(doing: str, count: Callable[[], int]) -> Iterator[Advance]:
    """Shows a bar on stderr, if that is a terminal.

    Args:
        doing: The verb, as in "indexing".
        count: Tells how many there are; asked only for the bar.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(doing, total=count())
        yield lambda documents: bar.advance(task, documents)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.0f} docs/s")
