"""Indexes on Milvus Lite, made once a module where tests only read (creating one takes a second)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m3plugins import Document, M3Encoder, M3Output
from m3plugins_milvus import MilvusHybridIndex
from tests.tiny import SENTENCES

Create = Callable[..., MilvusHybridIndex]


def random_documents(count: int, seed: int = 0) -> list[Document]:
    """Texts of several scripts, some empty, some alike, with metadata to filter by."""
    choose = random.Random(seed)
    words = " ".join(SENTENCES).split()
    return [
        Document(
            id=f"doc-{number}",
            text=" ".join(choose.choices(words, k=choose.randint(0, 30))),
            title=choose.choice(["", "Fox", "狐"]),
            metadata={"number": number, "lang": choose.choice(["en", "de", "ja"]), "even": number % 2 == 0},
            parent_id=None if number % 3 else f"parent-{number}",
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return random_documents(100)


@pytest.fixture(scope="module")
def index(
    encoder: M3Encoder, documents: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MilvusHybridIndex]:
    """100 documents, to be read only."""
    uri = tmp_path_factory.mktemp("milvus") / "read.db"
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=uri) as index:
        index.upsert(documents)
        yield index


@pytest.fixture(scope="module")
def scratch(encoder: M3Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusHybridIndex]:
    uri = tmp_path_factory.mktemp("milvus") / "scratch.db"
    with MilvusHybridIndex.create("scratch", encoder=encoder, uri=uri) as index:
        yield index


@pytest.fixture
def empty(scratch: MilvusHybridIndex) -> Iterator[MilvusHybridIndex]:
    """An empty index to write to."""
    yield scratch
    scratch.delete([document.id for document in scratch.scan()])
    assert scratch.count() == 0


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


@pytest.fixture(scope="session")
def embedding(encoder: M3Encoder) -> M3Output:
    """The output of one text, for documents whose text does not matter."""
    return encoder.encode_documents(["The quick brown fox"])
