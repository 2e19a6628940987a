"""kill -9 of the node, and of the client, in the middle of an upsert: what was acknowledged is there, once, whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from m3plugins import Document, M3Encoder
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from tests.elasticsearch.node import Node

DOCUMENTS = 400
CLIENT = """
import sys
from pathlib import Path
from m3plugins import M3Encoder
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from tests.elasticsearch.test_crash import documents

url, checkpoint, name, witness = sys.argv[1:]
encoder = M3Encoder.from_pretrained(checkpoint, batch_tokens=256)
with Path(witness).open("a") as acknowledged:
    def on_ack(ids):
        acknowledged.write("".join(i + "\\n" for i in ids))
        acknowledged.flush()
    ElasticsearchHybridIndex.open(name, encoder=encoder, uri=url).upsert(documents(), on_ack=on_ack)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def documents() -> list[Document]:
    return [Document(id=f"d{n}", text=f"The fox number {n} jumps.", metadata={"n": n}) for n in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    archive = os.environ.get("M3_TEST_ES_ZIP")
    if not archive:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs M3_TEST_ES_ZIP, a node to kill")
    node = Node(Path(archive))
    try:
        yield node.start()
    finally:
        node.stop()


@pytest.fixture
def small_batches(checkpoint: Path) -> M3Encoder:
    """Hands out a few documents at a time, so that there are many moments to die in."""
    return M3Encoder.from_pretrained(checkpoint, batch_tokens=256)


def assert_whole(index: ElasticsearchHybridIndex, acknowledged: list[str]) -> None:
    """Every acknowledged document is there as it was written, with its vectors."""
    expected = {document.id: document for document in documents()}
    stored = dict.fromkeys(acknowledged)
    assert {document.id: document for document in index.get(list(stored))} == {i: expected[i] for i in stored}
    embeddings = index.embeddings(list(stored))
    assert embeddings.keys() == stored.keys()
    fresh = index.encoder.encode_documents([expected[i].content for i in stored])
    for row, i in enumerate(stored):
        assert embeddings[i].dense == pytest.approx(fresh[row].dense, abs=1e-5)
        assert len(embeddings[i].multi_vector[0]) == len(fresh.multi_vector[row])


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_node_loses_nothing_and_the_upsert_goes_on(node: Node, small_batches: M3Encoder, seed: int):
    index = ElasticsearchHybridIndex.create(f"node-{seed}", encoder=small_batches, uri=node.url, patience=120)
    acknowledged: list[str] = []
    reports = []
    writer = threading.Thread(
        target=lambda: reports.append(index.upsert(documents(), on_ack=acknowledged.extend)), daemon=True
    )
    writer.start()
    wanted = random.Random(seed).randrange(1, DOCUMENTS // 2)
    while len(acknowledged) < wanted:
        time.sleep(0.005)
    node.kill()
    before = list(acknowledged)
    node.start()
    with ElasticsearchHybridIndex.open(index.name, encoder=small_batches, uri=node.url) as another:
        assert_whole(another, before)
    writer.join(timeout=200)
    (report,) = reports
    assert (report.written + report.unchanged, report.failed) == (DOCUMENTS, [])
    assert sorted(acknowledged) == sorted({document.id for document in documents()})
    assert index.count() == DOCUMENTS
    assert_whole(index, acknowledged)


def test_a_node_that_stays_away_ends_the_upsert_and_a_re_run_completes_it(node: Node, small_batches: M3Encoder):
    index = ElasticsearchHybridIndex.create("away", encoder=small_batches, uri=node.url, patience=1)
    acknowledged: list[str] = []

    def on_ack(ids: list[str]) -> None:
        acknowledged.extend(ids)
        if len(acknowledged) > 50 and not killed:
            killed.append(node.kill())

    killed: list[None] = []
    with pytest.raises(RuntimeError, match=r"cannot write to 'm3-write.away': no connection to Elasticsearch"):
        index.upsert(documents(), on_ack=on_ack)
    node.start()
    assert_whole(index, acknowledged)
    report = index.upsert(documents())
    assert report.written + report.unchanged == index.count() == DOCUMENTS
    assert report.unchanged >= len(acknowledged)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_client_loses_nothing_and_a_re_run_completes(
    node: Node, checkpoint: Path, small_batches: M3Encoder, tmp_path: Path, seed: int
):
    index = ElasticsearchHybridIndex.create(f"client-{seed}", encoder=small_batches, uri=node.url)
    witness = tmp_path / "acknowledged"
    witness.touch()
    client = subprocess.Popen([sys.executable, "-c", CLIENT, node.url, str(checkpoint), index.name, str(witness)])
    wanted = random.Random(seed).randrange(1, DOCUMENTS)
    while len(witness.read_text().splitlines()) < wanted and client.poll() is None:
        time.sleep(0.005)
    client.kill()
    client.wait()
    acknowledged = [line for line in witness.read_text().split("\n")[:-1]]
    assert_whole(index, acknowledged)
    report = index.upsert(documents())
    assert report.written + report.unchanged == index.count() == DOCUMENTS
    assert report.unchanged >= len(acknowledged)
    assert_whole(index, [document.id for document in documents()])
