"""What the tests share: an encoder, which is a tiny random M3 checkpoint made here, and an Elasticsearch node."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from tests.tiny import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("m3"))


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def es_url() -> Iterator[str]:
    """A node of Elasticsearch: the running one of `M3_TEST_ES_URL`, or one started from `M3_TEST_ES_ZIP`."""
    if running := os.environ.get("M3_TEST_ES_URL"):
        yield running
        return
    archive = os.environ.get("M3_TEST_ES_ZIP")
    if not archive:
        reason = "needs Elasticsearch: set M3_TEST_ES_URL (a node without security) or M3_TEST_ES_ZIP (a distribution)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    from tests.elasticsearch.node import Node

    node = Node(Path(archive))
    try:
        yield node.start().url
    finally:
        node.stop()


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
