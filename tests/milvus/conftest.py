"""Indexes on Milvus Lite, made once a module where tests only read (creating one takes a second)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins_milvus import MilvusHybridIndex

Create = Callable[..., MilvusHybridIndex]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's file."""
    return tmp_path_factory.mktemp("milvus") / "m3.db"


@pytest.fixture(scope="module")
def make(encoder: M3Encoder, uri: Path) -> Iterator[Create]:
    """Makes indexes in the module's file, and closes them at its end."""
    made: list[MilvusHybridIndex] = []

    def new(name: str | None = None, **options: object) -> MilvusHybridIndex:
        name = name or f"docs_{len(made)}"
        made.append(MilvusHybridIndex.create(name, **{"encoder": encoder, "uri": uri, **options}))
        return made[-1]

    yield new
    for index in made:
        index.close()


@pytest.fixture
def reopen(encoder: M3Encoder, uri: Path) -> Create:
    """Opens an index of that file by its name."""
    return lambda name, **options: MilvusHybridIndex.open(name, **{"encoder": encoder, "uri": uri, **options})


@pytest.fixture
def create(encoder: M3Encoder, tmp_path: Path) -> Iterator[Create]:
    """Makes indexes in a file of this test's own, and closes them."""
    made = []

    def make(name: str = "docs", **options: object) -> MilvusHybridIndex:
        made.append(MilvusHybridIndex.create(name, **{"encoder": encoder, "uri": tmp_path / "m3.db", **options}))
        return made[-1]

    yield make
    for index in made:
        index.close()
