"""`kill -9` of the node and of the client in mid-upsert: what was acknowledged is there, with its vectors."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.rows import rounded
from tests.elasticsearch.node import Node, archive
from tests.elasticsearch.upserting import COUNT, documents, outputs
from tests.tiny import SENTENCES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The client logs every lost connection with its traceback."""
    caplog.set_level(logging.CRITICAL, "elastic_transport")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node(archive())
    try:
        yield node.start()
    finally:
        node.stop()


@pytest.fixture(scope="module")
def expected(encoder: M3Encoder) -> dict[str, tuple[np.ndarray, ...]]:
    """The vectors of each text."""
    rows = encoder.encode_documents(SENTENCES)
    return {
        text: (rows.dense[number], rows.sparse[number].indices, rounded(rows.sparse[number].values))
        for number, text in enumerate(SENTENCES)
    }


@pytest.fixture
def index(node: Node, encoder: M3Encoder, request: pytest.FixtureRequest) -> Iterator[ElasticsearchHybridIndex]:
    name = request.node.name.replace("[", "-").rstrip("]").lower()
    with ElasticsearchHybridIndex.create(name, encoder=encoder, uri=node.url, patience=120) as index:
        yield index
        index.drop()


def check(index: ElasticsearchHybridIndex, acknowledged: Iterable[str], expected, *, alone: bool = True) -> None:
    """Every acknowledged document is there to the letter, and every document that is there has its text's vectors."""
    wanted = {document.id: document for document in documents()}
    acknowledged = list(acknowledged)
    stored = {document.id: document for document in index.get(acknowledged)}
    assert {i: stored.get(i) for i in acknowledged} == {i: wanted[i] for i in acknowledged}
    index.writer.flush()
    seen = set()
    for document, output in index.scan(with_embeddings=True):
        assert document == wanted[document.id] and document.id not in seen
        seen.add(document.id)
        dense, tokens, weights = expected[document.text]
        np.testing.assert_array_equal(output.dense[0], dense)
        np.testing.assert_array_equal(output.sparse[0].indices, tokens)
        np.testing.assert_array_equal(output.sparse[0].values, weights)
        assert output.multi_vector[0].shape[0] > 0
    assert seen >= set(acknowledged)
    if alone:
        assert index.count() == len(seen)


def finish(index: ElasticsearchHybridIndex, encoder: M3Encoder, acknowledged: Iterable[str], expected) -> None:
    """The same upsert once more: it writes what is missing."""
    report = index.upsert(documents(), embeddings=outputs(encoder))
    assert report.failed == [] and report.written + report.unchanged == COUNT
    assert report.unchanged >= len(set(acknowledged))
    check(index, [document.id for document in documents()], expected)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_killed_node_has_what_it_acknowledged_and_the_upsert_goes_on(node, index, encoder, expected, seed):
    choose = random.Random(seed)
    acknowledged: list[str] = []
    errors: list[BaseException] = []
    enough, moment = threading.Event(), choose.randrange(COUNT // 10, COUNT // 2)
    searching = threading.Event()

    def on_ack(ids: list[str]) -> None:
        acknowledged.extend(ids)
        if len(acknowledged) >= moment:
            enough.set()

    def write() -> None:
        try:
            report = index.upsert(documents(), embeddings=outputs(encoder), on_ack=on_ack)
            assert (report.written, report.failed) == (COUNT, [])
        except BaseException as err:
            errors.append(err)

    def search() -> None:
        retriever = HybridRetriever(index)
        while not searching.is_set():
            try:
                retriever.search("fox", k=3)
            except ElasticsearchIndexError as err:
                assert "\n" not in str(err)
            except BaseException as err:
                errors.append(err)
                return

    threads = [threading.Thread(target=work) for work in (write, search)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    time.sleep(choose.uniform(0, 0.2))
    node.kill()
    before = list(acknowledged)
    assert len(before) < COUNT
    node.start()
    check(index, before, expected, alone=False)
    threads[0].join(200)
    searching.set()
    threads[1].join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
    check(index, acknowledged, expected)
    finish(index, encoder, acknowledged, expected)


def test_without_patience_the_upsert_ends_and_can_be_repeated(node, encoder, expected, index):
    acknowledged: list[str] = []
    killed = threading.Event()

    def on_ack(ids: list[str]) -> None:
        acknowledged.extend(ids)
        if len(acknowledged) > COUNT // 4 and not killed.is_set():
            node.kill()
            killed.set()

    with ElasticsearchHybridIndex.open(index.name, encoder=encoder, uri=node.url, patience=0.5) as hasty:
        with pytest.raises(
            ElasticsearchIndexError, match="no connection to Elasticsearch .*; check the address"
        ) as caught:
            hasty.upsert(documents(), embeddings=outputs(encoder), on_ack=on_ack)
    assert "\n" not in str(caught.value) and COUNT // 4 < len(acknowledged) < COUNT
    node.start()
    check(index, acknowledged, expected)
    finish(index, encoder, acknowledged, expected)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_a_killed_client_has_lost_nothing_that_was_acknowledged(
    node, index, encoder, expected, checkpoint: Path, tmp_path: Path, seed
):
    choose = random.Random(seed)
    witness = tmp_path / "acknowledged"
    witness.touch()
    command = [
        sys.executable,
        "-m",
        "tests.elasticsearch.upserting",
        node.url,
        index.name,
        str(checkpoint),
        str(witness),
    ]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        moment = choose.randrange(COUNT // 20, COUNT // 2)
        deadline = time.monotonic() + 120
        while witness.read_text().count("\n") < moment:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(choose.uniform(0, 0.1))
    finally:
        process.kill()
        process.wait()
    acknowledged = witness.read_text().split("\n")[:-1]
    assert moment <= len(acknowledged) < COUNT
    check(index, acknowledged, expected)
    finish(index, encoder, acknowledged, expected)


def test_a_document_is_whole_or_not_there(node, index, encoder):
    """Each is one write: no half of a replaced document is ever read."""
    texts = [SENTENCES[0], SENTENCES[5]]
    rows = encoder.encode_documents(texts)
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn = 1 - turn
            document = Document(id="a", text=texts[turn], metadata={"turn": turn})
            index.upsert([document], embeddings=rows[turn])

    index.upsert([Document(id="a", text=texts[0], metadata={"turn": 0})], embeddings=rows[0])
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            ((document, output),) = index.scan(with_embeddings=True)
            turn = document.metadata["turn"]
            assert document.text == texts[turn]
            np.testing.assert_array_equal(output.dense, rows[turn].dense)
    finally:
        stop.set()
        writer.join()
