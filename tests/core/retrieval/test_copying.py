"""Copies within and between the in-memory index and Milvus Lite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m3plugins import HybridIndex, InMemoryHybridIndex, M3Encoder
from m3plugins.retrieval.copying import copy
from tests.core.retrieval.copying_suite import CopyingSuite, Make


@pytest.fixture
def in_memory(encoder: M3Encoder) -> Make:
    return lambda **options: InMemoryHybridIndex(**{"encoder": encoder, **options})


@pytest.fixture
def in_milvus(encoder: M3Encoder, tmp_path: Path) -> Iterator[Make]:
    milvus = pytest.importorskip("m3plugins_milvus").MilvusHybridIndex
    made = []

    def make(**options):
        options = {"encoder": encoder, "uri": tmp_path / "m3.db", **options}
        made.append(milvus.create(f"docs_{len(made)}", **options))
        return made[-1]

    yield make
    for index in made:
        index.close()


class TestWithinMemory(CopyingSuite):
    @pytest.fixture
    def make_source(self, in_memory):
        return in_memory

    @pytest.fixture
    def make_target(self, in_memory):
        return in_memory


class TestIntoMilvus(CopyingSuite):
    @pytest.fixture
    def make_source(self, in_memory):
        return in_memory

    @pytest.fixture
    def make_target(self, in_milvus):
        return in_milvus


class TestFromMilvus(CopyingSuite):
    @pytest.fixture
    def make_source(self, in_milvus):
        return in_milvus

    @pytest.fixture
    def make_target(self, in_memory):
        return in_memory


def test_a_closed_index_is_still_an_index_and_takes_no_copy(encoder):
    source, target = InMemoryHybridIndex(encoder=encoder), InMemoryHybridIndex(encoder=encoder)
    target.close()
    assert isinstance(target, HybridIndex)
    with pytest.raises(ValueError, match="closed"):
        copy(source, target)
