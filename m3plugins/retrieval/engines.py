"""Engines by name: the index classes that installed distributions register.

A distribution registers its class in the entry point group `m3plugins.engines`, as in
`milvus = "m3plugins_milvus:MilvusHybridIndex"`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.retrieval.index import HybridIndex

GROUP = "m3plugins.engines"


class Engine(Protocol):
    """An index class.

    Attributes:
        default_uri: Where `m3` looks for it unless told.
    """

    default_uri: str

    def create(
        self,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str,
        token: str | None = None,
        passages: Passages | None = None,
    ) -> HybridIndex:
        """Makes an index of this name."""

    def open(self, name: str, *, encoder: M3Encoder, uri: str, token: str | None = None) -> HybridIndex:
        """Opens an index that was made before."""


def engines() -> dict[str, EntryPoint]:
    """What is registered, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load_engine(name: str) -> Engine:
    """Imports an engine's index class.

    Raises:
        ValueError: If no engine of that name is registered.
    """
    registered = engines()
    if name not in registered:
        installed = ", ".join(registered) or "none"
        msg = f"no engine {name!r} is installed (installed: {installed}); pip install m3plugins-{name}, or name another"
        raise ValueError(msg)
    return cast(Engine, registered[name].load())
