"""Indexes on a real node, made once a module where tests only read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator

import pytest

from m3plugins import Document, HybridIndex, M3Encoder, M3Output
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from tests.milvus.conftest import random_documents

Create = Callable[..., ElasticsearchHybridIndex]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return random_documents(100)


@pytest.fixture(scope="module")
def make(encoder: M3Encoder, es_url: str) -> Iterator[Create]:
    """Makes indexes of this module's own, and drops them at its end."""
    made: list[ElasticsearchHybridIndex] = []

    def new(name: str | None = None, **options: object) -> ElasticsearchHybridIndex:
        name = name or f"m3-test-{uuid.uuid4().hex}"
        made.append(ElasticsearchHybridIndex.create(name, **{"encoder": encoder, "uri": es_url, **options}))
        return made[-1]

    yield new
    for index in made:
        index._connection.another().client.indices.delete(index=index.name, ignore_unavailable=True)
        index.close()


@pytest.fixture(scope="module")
def index(make: Create, documents: list[Document]) -> ElasticsearchHybridIndex:
    """100 documents, to be read only."""
    index = make()
    index.upsert(documents)
    return index


@pytest.fixture(scope="module")
def scratch(make: Create) -> ElasticsearchHybridIndex:
    return make()


@pytest.fixture
def empty(scratch: ElasticsearchHybridIndex) -> Iterator[ElasticsearchHybridIndex]:
    """An empty index to write to."""
    yield scratch
    scratch.delete([document.id for document in scratch.scan()])
    assert scratch.count() == 0


@pytest.fixture(scope="session")
def embedding(encoder: M3Encoder) -> M3Output:
    """The output of one text, for documents whose text does not matter."""
    return encoder.encode_documents(["The quick brown fox"])


@pytest.fixture
def passes(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are encoded as documents."""
    texts: list[str] = []
    encode = type(encoder).iter_documents

    def counted(self: M3Encoder, documents: Iterable[str], **options: object) -> Iterator[M3Output]:
        documents = list(documents)
        texts.extend(documents)
        return encode(self, documents, **options)

    monkeypatch.setattr(type(encoder), "iter_documents", counted)
    return texts


def vectors(index: HybridIndex) -> dict[str, tuple[bytes, ...]]:
    """The embeddings of every document, to the bit."""
    found = {}
    for document, output in index.scan(with_embeddings=True):
        assert output.dense is not None and output.sparse is not None and output.multi_vector is not None
        arrays = (output.dense, output.sparse.indices, output.sparse.values, output.multi_vector[0])
        found[document.id] = tuple(array.tobytes() for array in arrays)
    return found
