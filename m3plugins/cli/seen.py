"""Ids of a run, on disk: a corpus may have more of them than memory takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from types import TracebackType

from typing_extensions import Self


class Seen:
    """Remembers ids, and where each was seen first, until it is closed."""

    def __init__(self) -> None:
        self._ids = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": a temporary file
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")
        self._ids.execute("BEGIN")

    def add(self, id: str, place: str = "") -> str | None:
        """Notes an id; returns where it was seen before, or None."""
        if self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (id, place)).rowcount:
            return None
        found: tuple[str] = self._ids.execute("SELECT place FROM ids WHERE id = ?", (id,)).fetchone()
        return found[0]

    def __contains__(self, id: str) -> bool:
        """Tells whether the id was seen."""
        return self._ids.execute("SELECT 1 FROM ids WHERE id = ?", (id,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        """Yields the ids, in no particular order."""
        return (row[0] for row in self._ids.execute("SELECT id FROM ids"))

    def __len__(self) -> int:
        """Counts the ids that were seen."""
        count: tuple[int] = self._ids.execute("SELECT count(*) FROM ids").fetchone()
        return count[0]

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forgets the ids."""
        self._ids.close()
