"""The same documents in the in-memory index and in Milvus Lite, and a count of what goes through the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.loaded import LoadedModel
from m3plugins_milvus import MilvusHybridIndex
from tests.tiny import SENTENCES

ENGINES = ("memory", "milvus")
DOCUMENTS = [
    Document(
        id=f"s{number}",
        text=text,
        metadata={"number": number, "lang": "en" if number < 2 else "other", "tags": ["fox"]},
        title="Fox" if number == 0 else "",
        parent_id="p" if number in (0, 5) else None,
    )
    for number, text in enumerate(SENTENCES)
]


def make_index(engine: str, encoder: M3Encoder, folder: pytest.TempPathFactory) -> HybridIndex:
    if engine == "memory":
        return InMemoryHybridIndex(encoder=encoder)
    return MilvusHybridIndex.create("docs", encoder=encoder, uri=folder.mktemp("langchain") / "m3.db")


@pytest.fixture(scope="session", params=ENGINES)
def index(
    request: pytest.FixtureRequest, encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HybridIndex]:
    """`DOCUMENTS`, to be read only."""
    with make_index(request.param, encoder, tmp_path_factory) as index:
        index.upsert(DOCUMENTS).raise_for_failed()
        yield index


@pytest.fixture
def hybrid(index: HybridIndex) -> HybridRetriever:
    return HybridRetriever(index)


@pytest.fixture(scope="session")
def scratch(encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, HybridIndex]]:
    with ExitStack() as stack:
        yield {engine: stack.enter_context(make_index(engine, encoder, tmp_path_factory)) for engine in ENGINES}


@pytest.fixture(params=ENGINES)
def empty(request: pytest.FixtureRequest, scratch: dict[str, HybridIndex]) -> Iterator[HybridIndex]:
    """An empty index to write to."""
    index = scratch[request.param]
    yield index
    index.delete([document.id for document in index.scan()])
    assert index.count() == 0


class ByLength:
    """A reranker of m3plugins: the longer the text, the better."""

    def score(self, query, texts):
        return np.array([len(text) for text in texts], np.float32)


class Passes(list[list[str]]):
    """The texts of each call of the model, by what the model reads."""

    @property
    def texts(self) -> list[str]:
        return [text for call in self for text in call]


@pytest.fixture
def passes(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> Passes:
    """What goes through the model from here on; nothing is remembered from before."""
    seen = Passes()
    encode = LoadedModel.encode

    def counted(self, window, heads, on_batch):
        seen.append([self.tokenizer.decode(text.ids) for text in window])
        return encode(self, window, heads, on_batch)

    monkeypatch.setattr(LoadedModel, "encode", counted)
    encoder.memo.clear()
    return seen
