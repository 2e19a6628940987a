"""Engines by name: the index classes that installed distributions register.

A distribution registers its class in the entry point group `m3plugins.engines`, as in
`milvus = "m3plugins_milvus:MilvusHybridIndex"`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from m3plugins.compression import DEFAULT_CODEC
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.named_index import NamedIndex

GROUP = "m3plugins.engines"


class Engine(Protocol):
    """An index class: its instances are `NamedIndex`, these are its class methods.

    A class may also have `checks(uri: str = "", token: str | None = None) -> Iterator[Check]`: lines of `m3 doctor`
    (`m3plugins.cli.checks.Check`) about the engine's client and, with an address, its server.

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
        codec: str = DEFAULT_CODEC,
        passages: Passages | None = None,
    ) -> NamedIndex:
        """Makes a new, empty index.

        Raises:
            IndexExistsError: If there is something of that name.
        """

    def open(self, name: str, *, encoder: M3Encoder, uri: str, token: str | None = None) -> NamedIndex:
        """Opens an index that was made before, by its name or an alias.

        Raises:
            IndexNotFoundError: If there is none.
            ModelMismatchError: If its vectors are not the encoder's.
        """

    def open_or_create(
        self,
        name: str,
        *,
        encoder: M3Encoder,
        uri: str,
        token: str | None = None,
        codec: str | None = None,
        passages: Passages | None = None,
    ) -> NamedIndex:
        """Opens an index if it is there and makes it otherwise, whoever else does so at the same time.

        Options that are None are those that the index has, or those of `create` by default.

        Raises:
            ModelMismatchError: If its vectors are not the encoder's.
            ValueError: If it has another codec, or other passages, than are asked for.
        """

    def list_indexes(self, *, uri: str, token: str | None = None) -> list[str]:
        """The names of the engine's indexes, sorted: nothing else that is there, and no aliases."""

    def describe_index(self, name: str, *, uri: str, token: str | None = None) -> IndexInfo:
        """What `NamedIndex.describe` says of an index, without its model.

        Raises:
            IndexNotFoundError: If there is none.
        """

    def drop_index(self, name: str, *, uri: str, token: str | None = None) -> None:
        """Deletes an index and all in it, without its model.

        Raises:
            IndexNotFoundError: If there is none.
            ValueError: If an alias points at it.
        """


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
