"""Other processes: one that has the index open, one whose disk is full, one that is interrupted."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from m3plugins import Document
from m3plugins.cli.app import run
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.milvus.crash.corpus import Corpus, load_encoder
from tests.milvus.crash.operations import OPERATIONS
from tests.tiny import SENTENCES

NAME = "docs"


def hold(uri: Path, checkpoint: Path, parent: Connection) -> None:
    """Has the index open until the parent says otherwise."""
    with MilvusHybridIndex.open(NAME, encoder=load_encoder(checkpoint), uri=uri):
        parent.send("open")
        parent.recv()


def fill_the_disk(uri: Path, checkpoint: Path, corpus: Corpus, at_once: bool, go_on: bool, parent: Connection) -> None:
    """Updates while the disk gets full, sends the error and the ids acknowledged, and is killed.

    Args:
        at_once: Whether the first write is cut short; else nothing fits after the first acknowledgement.
        go_on: Whether there is room again, and the same index is used for new documents, before that.
    """
    acked: list[str] = []
    error = ""

    def on_ack(ids: list[str]) -> None:
        acked.extend(ids)
        limit_files(1)

    index = MilvusHybridIndex.open(NAME, encoder=load_encoder(checkpoint), uri=uri)
    limit_files(100_000 if at_once else resource.RLIM_INFINITY)
    try:
        OPERATIONS["update"](corpus, False)[0].call(index, on_ack)
    except MilvusIndexError as err:
        error = str(err)
    limit_files(resource.RLIM_INFINITY)

    def end(ids: list[str] = ()) -> None:
        parent.send((error, acked, list(ids)))
        os.kill(os.getpid(), signal.SIGKILL)

    if go_on:
        new: list[str] = []
        try:
            OPERATIONS["index"](corpus, False)[0].call(index, end if at_once else new.extend)
        except MilvusIndexError as err:
            error = str(err)
        end(new)
    end()


def limit_files(size: int) -> None:
    """Files may have no more bytes: a write that would pass it is cut short, the next one refused."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def upsert_forever(uri: Path, checkpoint: Path, parent: Connection) -> None:
    """Sends the ids that are acknowledged."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with MilvusHybridIndex.open(NAME, encoder=load_encoder(checkpoint), uri=uri) as index:
        index.upsert((endless(n) for n in itertools.count()), on_ack=parent.send)


def endless(number: int) -> Document:
    return Document(id=f"endless-{number}", text=f"{SENTENCES[number % len(SENTENCES)]} {number}")


def m3(arguments: list[str], stderr: Path, parent: Connection) -> None:
    """The command, its stderr in a file; tells the parent of each write that Lite has done."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    from milvus_lite.adapter.grpc.servicer import MilvusServicer

    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    insert = MilvusServicer.Insert

    def told(*request: object) -> object:
        answer = insert(*request)
        parent.send("stored")
        return answer

    MilvusServicer.Insert = told
    sys.exit(run(arguments))
