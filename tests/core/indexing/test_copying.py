"""Copies within and between the in-memory index and Milvus Lite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m3plugins import Document, HybridIndex, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages
from m3plugins.indexing.copy import copy
from tests.core.indexing.copying_suite import CopyingSuite, Make


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


@pytest.mark.parametrize("damage", ["lost", "cut"])
@pytest.mark.parametrize("passages", [None, Passages(size=40, overlap=8)], ids=["documents", "passages"])
def test_documents_that_cannot_be_read_are_named_and_the_others_are_copied(in_milvus, in_memory, passages, damage):
    from m3plugins_milvus.blocks import block_row
    from m3plugins_milvus.rows import key_of

    source, target = in_milvus(passages=passages), in_memory(passages=passages)
    source.upsert([Document(id=f"doc-{n}", text=f"fox {n}") for n in range(40)])
    blocks, suffix = source._store.blocks, "" if passages is None else "#0"
    owners = tuple(key_of(f"doc-{n}{suffix}") for n in (3, 7))
    broken = [key for page in blocks.keys() for key in page if key.startswith(owners)]
    assert len(broken) == 2
    if damage == "lost":
        blocks.delete(broken)
    else:
        blocks.upsert([block_row(key, "QUJD") for key in broken])
    report = copy(source, target)
    assert (report.written, sorted(failure.id for failure in report.failed)) == (38, ["doc-3", "doc-7"])
    assert all("delete it and index it again" in failure.reason for failure in report.failed)
    assert target.count() == 38
