"""Stored embeddings by id, of the in-memory index."""

from __future__ import annotations

import asyncio

import pytest

from m3plugins import Document, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import HEADS
from tests.tiny import SENTENCES


@pytest.fixture
def index(encoder: M3Encoder) -> InMemoryHybridIndex:
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(Document(id=f"d{i}", text=text) for i, text in enumerate(SENTENCES))
    return index


def test_they_are_those_of_a_scan_in_the_order_of_the_ids(index):
    index.delete(["d1"])
    index.upsert([Document(id="d5", text="new")])
    scanned = {document.id: output for document, output in index.scan(with_embeddings=True)}
    found = index.embeddings(["d7", "nobody", "d5", "d1", "d7"])
    assert list(found) == ["d7", "d5"]
    for i, output in found.items():
        assert len(output) == 1 and output.heads == HEADS
        assert output.digest() == scanned[i].digest()


@pytest.mark.parametrize("heads", [("dense",), ("multi_vector", "sparse"), "sparse", HEADS])
def test_they_have_the_heads_that_were_asked_for(index, heads):
    expected = index.embeddings(["d0"])["d0"].select(heads)
    assert index.embeddings(["d0"], heads)["d0"].digest() == expected.digest()


def test_who_keeps_one_does_not_keep_or_change_the_index(index):
    output = index.embeddings(["d3"])["d3"]
    assert output.dense.base is None and output.multi_vector.vectors.base is None
    before = output.digest()
    output.dense[:] = 0
    assert index.embeddings(["d3"])["d3"].digest() == before


def test_of_no_documents_there_are_none(index, encoder):
    assert index.embeddings([]) == index.embeddings(["nobody"]) == {}
    assert InMemoryHybridIndex(encoder=encoder).embeddings(["d0"]) == {}


def test_wrong_calls_are_refused(index):
    with pytest.raises(ValueError, match="heads must be one or more of dense, sparse, multi_vector"):
        index.embeddings(["d0"], ("colbert",))
    with pytest.raises(TypeError, match="ids must be a list of strings"):
        index.embeddings("d0")
    index.close()
    with pytest.raises(ValueError, match="this index is closed"):
        index.embeddings(["d0"])


def test_the_async_twin_gives_the_same(index):
    (output,) = asyncio.run(index.aembeddings(["d2"], heads=("dense",))).values()
    assert output.digest() == index.embeddings(["d2"], heads=("dense",))["d2"].digest()
