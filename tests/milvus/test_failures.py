"""What goes wrong around the index: other processes, full disks, interruptions, files of others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins.cli.app import run
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.milvus.conftest import Create
from tests.milvus.crash import others
from tests.milvus.crash.checking import check
from tests.milvus.crash.operations import OPERATIONS
from tests.milvus.crash.trials import Laboratory, after, processes
from tests.tiny import SENTENCES, random_documents

Start = Callable[..., tuple[BaseProcess, Connection]]


@pytest.fixture(scope="module")
def laboratory(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("failures"), checkpoint)


@pytest.fixture
def uri(laboratory: Laboratory) -> Path:
    return laboratory.fresh()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one of `others` in a process of its own; it ends with the test."""
    started = []

    def begin(target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
        ours, theirs = processes.Pipe()
        process = processes.Process(target=target, args=(*arguments, theirs))
        process.start()
        theirs.close()
        started.append(process)
        return process, ours

    yield begin
    for process in started:
        process.kill()
        process.join()


def reopened(laboratory: Laboratory, uri: Path) -> MilvusHybridIndex:
    return MilvusHybridIndex.open("docs", encoder=laboratory.encoder, uri=uri)


def test_a_file_in_use_is_refused_and_free_again_once_it_is_closed(
    laboratory: Laboratory, uri: Path, start: Start
) -> None:
    other, channel = start(others.hold, uri, laboratory.checkpoint)
    assert channel.recv() == "open"
    with pytest.raises(MilvusIndexError, match="another process has it open.*close it there or use a server"):
        reopened(laboratory, uri)
    channel.send("close")
    other.join()
    with reopened(laboratory, uri) as index:
        stored = {each.id: [each] for each in laboratory.corpus.stored}
        assert not check(index, laboratory.corpus, stored, stored)


def test_a_killed_process_leaves_no_lock(laboratory: Laboratory, uri: Path, start: Start) -> None:
    other, channel = start(others.hold, uri, laboratory.checkpoint)
    channel.recv()
    other.kill()
    other.join()
    with reopened(laboratory, uri) as index:
        assert index.count() == len(laboratory.corpus.stored)


def test_the_command_says_in_a_line_that_a_file_is_in_use(
    laboratory: Laboratory, uri: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, channel = start(others.hold, uri, laboratory.checkpoint)
    channel.recv()
    (tmp_path / "a.txt").write_text("a fox")
    assert run(["index", str(tmp_path), "--uri", str(uri), "--model", str(laboratory.checkpoint)]) == 1
    err = capsys.readouterr().err
    assert "another process has it open" in err and err.count("\n") == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "on the way"])
def test_a_full_disk_is_a_clear_error_and_keeps_what_was_acknowledged(
    laboratory: Laboratory, uri: Path, start: Start, at_once: bool
) -> None:
    other, channel = start(others.fill_the_disk, uri, laboratory.checkpoint, laboratory.corpus, at_once, False)
    error, acked, _ = channel.recv()
    other.join()
    assert error.startswith("cannot ") and "File too large" in error
    sent = OPERATIONS["update"](laboratory.corpus, False)[0].sent
    assert len(acked) < len(sent)
    stored = {each.id: [each] for each in laboratory.corpus.stored}
    known = after(stored, sent, Counter())
    with reopened(laboratory, uri) as index:
        assert not check(index, laboratory.corpus, after(stored, sent, Counter(acked)), known)
        assert OPERATIONS["update"](laboratory.corpus, False)[0].call(index, lambda ids: None) == []
        assert not check(index, laboratory.corpus, after(stored, sent, Counter(i for i, _ in sent)), known)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "on the way"])
def test_nothing_is_acknowledged_in_vain_after_the_disk_was_full(
    laboratory: Laboratory, uri: Path, start: Start, at_once: bool
) -> None:
    """Lite goes on after a write that was cut short, and finds nothing that was written after it once reopened."""
    other, channel = start(others.fill_the_disk, uri, laboratory.checkpoint, laboratory.corpus, at_once, True)
    _, acked, later = channel.recv()
    other.join()
    sent = [pair for name in ("update", "index") for pair in OPERATIONS[name](laboratory.corpus, False)[0].sent]
    stored = {each.id: [each] for each in laboratory.corpus.stored}
    with reopened(laboratory, uri) as index:
        allowed, known = after(stored, sent, Counter(acked + later)), after(stored, sent, Counter())
        assert not check(index, laboratory.corpus, allowed, known)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)])
def test_an_interrupted_upsert_ends_and_keeps_what_was_acknowledged(
    laboratory: Laboratory, uri: Path, start: Start, number: signal.Signals, code: int
) -> None:
    other, channel = start(others.upsert_forever, uri, laboratory.checkpoint)
    acked = list(channel.recv())
    os.kill(other.pid, number)
    other.join(60)
    assert other.exitcode == code
    try:
        while True:
            acked += channel.recv()
    except EOFError:
        pass
    with reopened(laboratory, uri) as index:
        documents = [others.endless(int(i.removeprefix("endless-"))) for i in acked]
        assert index.get(acked) == documents
        assert len(index.score(laboratory.encoder.encode_queries(["fox"]), acked)) == len(acked)
        assert index.upsert(documents).unchanged == len(acked)


def test_an_interrupted_command_says_so_in_a_line_and_goes_on_when_it_is_repeated(
    checkpoint: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"{SENTENCES[n % len(SENTENCES)]} {n}" for n in range(5000)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    arguments = ["index", str(corpus), "--uri", str(tmp_path / "m3.db"), "--model", str(checkpoint), "--json"]
    other, channel = start(others.m3, arguments, tmp_path / "stderr")
    for _ in range(4):  # the rows that a new index is tried with, its identity, the first blocks and documents
        channel.recv()
    os.kill(other.pid, signal.SIGINT)
    other.join(60)
    said = "m3: interrupted; run the same command again: it goes on, and encodes nothing that is stored\n"
    assert (other.exitcode, (tmp_path / "stderr").read_text()) == (1, said)
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:500]))
    assert run(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["written"] + done["unchanged"], done["failed"]) == (500, [])
    assert done["unchanged"] > 0


@pytest.mark.parametrize("content", ["a file", "a folder of others'"])
def test_a_path_that_is_not_ours_is_a_clear_error_and_stays(encoder: M3Encoder, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.db"
    file = path if content == "a file" else path / "data.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("theirs")
    with pytest.raises((MilvusIndexError, ValueError), match=r"other\.db"):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=path)
    assert file.read_text() == "theirs"


def test_a_plain_file_is_not_said_to_be_in_use(encoder: M3Encoder, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("theirs")
    for verb in (MilvusHybridIndex.open, MilvusHybridIndex.create):
        with pytest.raises((MilvusIndexError, ValueError)) as caught:
            verb("docs", encoder=encoder, uri=tmp_path / "other.db")
        assert "another process" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_not_said_to_be_in_use(encoder: M3Encoder) -> None:
    with pytest.raises((MilvusIndexError, ValueError)) as caught:
        MilvusHybridIndex.create("docs", encoder=encoder, uri="/proc/m3.db")
    assert "another process" not in str(caught.value)


def test_closed_under_a_thread_that_writes_and_one_that_searches(
    create: Create, encoder: M3Encoder, tmp_path: Path
) -> None:
    """Both end with an error that says so, and nothing is damaged."""
    index, query = create(), encoder.encode_queries(["fox"])
    acked: list[str] = []
    errors: list[BaseException] = []
    writing, searching = threading.Event(), threading.Event()

    def write() -> None:
        def on_ack(ids: list[str]) -> None:
            acked.extend(ids)
            writing.set()

        index.upsert((document for seed in range(1000) for document in random_documents(300, seed)), on_ack=on_ack)

    def search() -> None:
        while True:
            index.candidates(query, 5)
            searching.set()

    def catch(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=catch, args=(work,)) for work in (write, search)]
    for thread in threads:
        thread.start()
    assert writing.wait(60) and searching.wait(60)
    index.close()
    for thread in threads:
        thread.join(60)
    assert [type(err) for err in errors if not isinstance(err, ValueError | MilvusIndexError)] == []
    assert len(errors) == 2
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db") as again:
        assert {document.id for document in again.get(acked)} == set(acked)
        assert len(again.score(query, acked)) == len(set(acked)) <= again.count()
    shutil.rmtree(tmp_path / "m3.db")
