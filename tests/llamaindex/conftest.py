"""Nodes, the indexes that hold them, and what counts forward passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins.indexing import HybridIndex
from m3plugins_milvus import MilvusHybridIndex
from tests.tiny import SENTENCES

Passes = Counter[tuple[int, ...]]
"""How often a text, as token ids, went through the model."""


def sentence_nodes() -> list[TextNode]:
    """A node a sentence, two of each source document, with metadata."""
    return [
        TextNode(
            id_=f"node-{number}",
            text=sentence,
            metadata={"number": number, "lang": ["en", "de", "fr"][number % 3], "tags": ["a"] * (number % 2)},
            excluded_embed_metadata_keys=["tags"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{number // 2}")},
        )
        for number, sentence in enumerate(SENTENCES)
    ]


@pytest.fixture
def nodes() -> list[TextNode]:
    return sentence_nodes()


@pytest.fixture(scope="module")
def scratch(encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusHybridIndex]:
    uri = str(tmp_path_factory.mktemp("llamaindex") / "m3.db")
    with MilvusHybridIndex.create("nodes", encoder=encoder, uri=uri) as index:
        yield index


@pytest.fixture(params=["memory", "milvus"])
def index(request: pytest.FixtureRequest, encoder: M3Encoder) -> Iterator[HybridIndex]:
    """An empty index to write to."""
    if request.param == "memory":
        yield InMemoryHybridIndex(encoder=encoder)
        return
    scratch = request.getfixturevalue("scratch")
    yield scratch
    scratch.delete([document.id for document in scratch.scan()])


@pytest.fixture
def store(index: HybridIndex) -> M3VectorStore:
    return M3VectorStore(retriever=HybridRetriever(index))


@pytest.fixture
def filled(store: M3VectorStore, nodes: list[TextNode]) -> M3VectorStore:
    store.add(nodes)
    return store


@pytest.fixture
def memory(encoder: M3Encoder, nodes: list[TextNode]) -> M3VectorStore:
    """A filled store in memory, for what does not depend on the engine."""
    store = M3VectorStore(retriever=HybridRetriever(InMemoryHybridIndex(encoder=encoder)))
    store.add(nodes)
    return store


@pytest.fixture
def passes(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Counts what goes through the model from here on; nothing is remembered from before."""
    encoder.memo.clear()
    counted: Passes = Counter()
    encode = LoadedModel.encode

    def counting(self: LoadedModel, window: Any, heads: Any, on_batch: Callable[[int], object]) -> Any:
        counted.update(tuple(text.ids) for text in window)
        return encode(self, window, heads, on_batch)

    monkeypatch.setattr(LoadedModel, "encode", counting)
    return counted


@pytest.fixture
def other_encoder(checkpoint: Path) -> M3Encoder:
    """One of this test's own."""
    return M3Encoder.from_pretrained(checkpoint)
