"""The in-memory index as an engine of `m3`, so that `m3 index` needs no database."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from m3plugins import InMemoryHybridIndex, M3Encoder
from m3plugins.indexing.info import IndexInfo

NAME = "memory"


class MemoryEngine(InMemoryHybridIndex):
    """An engine of one index in memory, which stays open."""

    default_uri = NAME
    made: ClassVar[MemoryEngine | None] = None

    @classmethod
    def open_or_create(cls, name: str, *, encoder: M3Encoder, **options: Any) -> MemoryEngine:
        """Returns the index."""
        cls.made = cls.made or cls(encoder=encoder)
        return cls.made

    def describe(self) -> IndexInfo:
        """Describes the index."""
        stored = self.count()
        return IndexInfo.of(
            self.identity, name="docs", engine=NAME, aliases=(), stored=stored, first_passages=0, format=1
        )

    def close(self) -> None:
        """Stays open, to be looked at afterwards."""


def register(folder: Path) -> None:
    """Writes what an installed distribution has, where it registers an engine; the folder goes on `sys.path`."""
    made = folder / "m3plugins_fuzz-0.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: m3plugins-fuzz\nVersion: 0\n", encoding="utf-8")
    entry = f"[m3plugins.engines]\n{NAME} = {__name__}:{MemoryEngine.__name__}\n"
    (made / "entry_points.txt").write_text(entry, encoding="utf-8")
