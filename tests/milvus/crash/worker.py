"""The process that is killed: it performs an operation and keeps the witness of what was acknowledged."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from m3plugins_milvus import MilvusHybridIndex
from tests.milvus.crash.corpus import Corpus, load_encoder
from tests.milvus.crash.operations import OPERATIONS

NAME = "docs"
ENGINE_CALLS = ("CreateCollection", "DropCollection", "LoadCollection", "Insert", "Upsert", "Delete", "Flush")
FILE_CALLS = ("replace", "rename", "remove")


@dataclass(frozen=True)
class Job:
    """What to do, and where to die.

    Attributes:
        operation: A name in OPERATIONS.
        encode: Whether the index encodes the texts, or is given their embeddings.
        point: Name of the point to die at; None: someone else decides.
    """

    uri: Path
    witness: Path
    checkpoint: Path
    corpus: Corpus
    operation: str
    encode: bool = False
    point: str | None = None


def perform(job: Job, parent: Connection) -> None:
    """Tells the parent when it begins, and the names of the points it came by when it is done."""
    passed = watch(job.point)
    encoder = load_encoder(job.checkpoint)
    steps = OPERATIONS[job.operation](job.corpus, job.encode)
    sync = os.fsync
    parent.send(None)
    with MilvusHybridIndex.open(NAME, encoder=encoder, uri=job.uri) as index, job.witness.open("ab", 0) as witness:

        def ack(ids: list[str]) -> None:
            witness.write(json.dumps(ids).encode() + b"\n")
            sync(witness.fileno())

        for step in steps:
            failed = step.call(index, ack)
            assert not failed, failed
    parent.send(passed)


def acknowledged(witness: Path) -> Iterator[str]:
    """The ids, as often as they were."""
    for line in witness.read_bytes().splitlines(keepends=True) if witness.exists() else ():
        if line.endswith(b"\n"):
            yield from json.loads(line)


def watch(point: str | None) -> list[str]:
    """Names the points before and after each call of Lite's engine and each of its changes of files.

    Returns:
        The names, one more with each point passed; the process dies at the given one.
    """
    import numpy
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from pyarrow import parquet

    passed: list[str] = []
    counts: Counter[str] = Counter()

    def reach(name: str) -> None:
        counts[name] += 1
        passed.append(f"{name} {counts[name]}")
        if passed[-1] == point:
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, names in (
        (MilvusServicer, ENGINE_CALLS),
        (os, FILE_CALLS),
        (numpy, ["save"]),
        (parquet, ["write_table"]),
    ):
        for name in names:
            setattr(owner, name, _watched(getattr(owner, name), name, reach))
    return passed


def _watched(original: Callable[..., Any], name: str, reach: Callable[[str], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*arguments: Any, **options: Any) -> Any:
        reach(f"before {name}")
        result = original(*arguments, **options)
        reach(f"after {name}")
        return result

    return watched
