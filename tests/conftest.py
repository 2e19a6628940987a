"""What the tests share: an encoder, which is a tiny random M3 checkpoint made here, indexes, an Elasticsearch node."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from m3plugins import Document, HybridIndex, M3Encoder, M3Output
from tests.tiny import random_documents, save_checkpoint

Make = Callable[..., HybridIndex]

# The same examples on any day, and no deadline, which a busy machine misses; more: `pytest --hypothesis-profile search`
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, derandomize=True)
settings.register_profile("steady", steady)
settings.register_profile("search", steady, derandomize=False)
settings.load_profile("steady")

pytest.register_assert_rewrite("tests.core", "tests.frameworks")  # their suites say what differs, as tests do


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint)


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


# Indexes, by the fixture `make` of an engine's own folder: it makes an empty one with the options it is given


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return random_documents(100)


@pytest.fixture(scope="module")
def index(make: Make, documents: list[Document]) -> HybridIndex:
    """100 documents, to be read only."""
    index = make()
    index.upsert(documents)
    return index


@pytest.fixture(scope="module")
def scratch(make: Make) -> HybridIndex:
    return make()


@pytest.fixture
def empty(scratch: HybridIndex) -> Iterator[HybridIndex]:
    """An empty index to write to."""
    yield scratch
    scratch.delete([document.id for document in scratch.scan()])
    assert scratch.count() == 0


@pytest.fixture(scope="session")
def es_url() -> Iterator[str]:
    """A node of Elasticsearch: the running one of `M3_TEST_ES_URL`, or one started from `M3_TEST_ES_ZIP`."""
    from tests.elasticsearch.node import running

    with running() as (url, _):
        yield url


@pytest.fixture
def es_name(es_url: str) -> Iterator[str]:
    """A name for indexes of this test's own; all that begin with it are deleted at its end."""
    from elasticsearch import Elasticsearch

    name = f"m3-test-{uuid.uuid4().hex}"
    yield name
    with Elasticsearch(es_url) as client:
        for made in client.indices.get(index=f"{name}*", expand_wildcards="all"):  # DELETE refuses wildcards
            if made.startswith(name):  # else an alias of that name was found
                client.indices.delete(index=made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped parity test is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("parity"):
        report.outcome = "failed"
        report.longrepr = f"a parity test must run in CI: {report.longrepr}"
    return report
