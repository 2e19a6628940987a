"""Races: two writers of one document at the same moment, again and again, on every engine.

    python -m benchmarks.races [--rounds 1000] [--documents 1] [--engines memory milvus elasticsearch processes]

Two races, each of so many rounds, which are counted by document: of several documents a call, each is a round.

- metadata: an `upsert` of another text or another parent beside an `update_metadata`. What was acknowledged of the
  upsert is *lost* if it is not there afterwards.
- passages: two `upsert`s of one document, or an `upsert` and a `delete`, in an index with passages. The document is
  *mixed* if it is neither one text nor the other, nor gone where it was deleted.

Writers are threads; "processes" is Elasticsearch with two processes. The node is that of M3_TEST_ES_URL, or one started
from the archive that M3_TEST_ES_ZIP names. Exits with 1 if anything was lost or mixed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.fixtures import SENTENCES, save_checkpoint
from m3plugins import Document, HybridIndex, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages

CUT = Passages(size=40, overlap=8)
WORDS = " ".join(SENTENCES).split()
ENGINES = ("memory", "milvus", "elasticsearch", "processes")
RACES = ("metadata", "passages")


@dataclass(frozen=True)
class Task:
    """The task of one writer in a round.

    Attributes:
        verb: Name of the index's method.
        documents: The documents to store, or to delete by their ids.
        delay: Seconds to wait after the start.
    """

    verb: str
    documents: list[Document]
    delay: float = 0.0

    def run(self, index: HybridIndex) -> dict[str, str]:
        """Does the task; returns what could not be done, and why, by id."""
        time.sleep(self.delay)
        if self.verb == "upsert":
            return dict(index.upsert(self.documents).failed)
        if self.verb == "update_metadata":
            return dict(index.update_metadata({each.id: each.metadata for each in self.documents}).failed)
        index.delete([each.id for each in self.documents])
        return {}


@dataclass
class Tally:
    """The results of the rounds of one race."""

    rounds: int = 0
    lost: int = 0
    mixed: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


Pair = Callable[[Task, Task], list[dict[str, str]]]
"""A function that lets two writers work at the same time, and returns what each could not do."""


def metadata_race(index: HybridIndex, pair: Pair, choose: random.Random, turn: int, ids: list[str]) -> Tally:
    """Runs one turn, in which every other document gets another text as well."""
    before = [Document(id=i, text=f"{choose.choice(SENTENCES)} {turn}", parent_id=f"old {turn}") for i in ids]
    index.upsert(before)
    new = [
        Document(
            id=old.id,
            text=old.text if (turn + n) % 2 else f"{old.text}, another",
            parent_id=f"new {turn}",
            metadata={"by": "upsert"},
        )
        for n, old in enumerate(before)
    ]
    notes = [Document(id=i, text="", metadata={"by": "update"}) for i in choose.sample(ids, len(ids))]
    refused, other = pair(
        Task("upsert", new, choose.uniform(0, 0.01)), Task("update_metadata", notes, choose.uniform(0, 0.01))
    )
    stored = {document.id: document for document in index.get(ids)}
    tally = Tally(rounds=len(ids), refused=[*refused.values(), *other.values()])
    for wanted in new:
        there = stored.get(wanted.id)
        if wanted.id not in refused and (
            there is None or (there.text, there.parent_id) != (wanted.text, wanted.parent_id)
        ):
            tally.lost += 1
        elif there is None or there.metadata.get("by") not in ("upsert", "update"):
            tally.mixed += 1
    return tally


def passages_race(index: HybridIndex, pair: Pair, choose: random.Random, turn: int, ids: list[str]) -> Tally:
    """Runs one turn; in every third the other writer deletes."""

    def versions(by: str) -> list[Document]:
        texts = [" ".join(choose.choices(WORDS, k=choose.randint(10, 150))) for _ in ids]
        return [
            Document(id=i, text=text, metadata={"by": by, "turn": turn}) for i, text in zip(ids, texts, strict=True)
        ]

    one, other, deletes = versions("one"), versions("other"), turn % 3 == 0
    done = pair(
        Task("upsert", one, choose.uniform(0, 0.02)),
        Task("delete" if deletes else "upsert", choose.sample(other, len(other)), choose.uniform(0, 0.02)),
    )
    tally = Tally(rounds=len(ids), refused=[reason for refused in done for reason in refused.values()])
    stored: dict[str, dict[str, Any]] = {i: {} for i in ids}
    for passage in index.scan():
        stored[passage.parent_id or ""][passage.id] = (passage.text, dict(passage.metadata))
    for versions_of_one in zip(one, other, strict=True):
        allowed = [passages_of(each, index) for each in versions_of_one[: 1 if deletes else 2]]
        tally.mixed += stored[versions_of_one[0].id] not in ([*allowed, {}] if deletes else allowed)
    return tally


def passages_of(document: Document, index: HybridIndex) -> dict[str, Any]:
    texts = CUT.split(document.text, index.encoder)
    return {f"{document.id}#{n}": (text, dict(document.metadata)) for n, text in enumerate(texts)}


def run(index: HybridIndex, pair: Pair, race: str, options: argparse.Namespace) -> Tally:
    """The rounds of one race."""
    choose, total, started = random.Random(options.seed), Tally(), time.perf_counter()
    ids = [f"doc-{n}" for n in range(options.documents)]
    play = metadata_race if race == "metadata" else passages_race
    for turn in range(-(-options.rounds // len(ids))):
        tally = play(index, pair, choose, turn, ids)
        total.rounds += tally.rounds
        total.lost += tally.lost
        total.mixed += tally.mixed
        total.refused += tally.refused
    total.seconds = time.perf_counter() - started
    return total


@contextmanager
def threads(first: HybridIndex, second: HybridIndex) -> Iterator[Pair]:
    """Two threads, each with an index object."""
    with ThreadPoolExecutor(2) as pool:

        def pair(*tasks: Task) -> list[dict[str, str]]:
            return [
                future.result()
                for future in [pool.submit(task.run, index) for task, index in zip(tasks, (first, second), strict=True)]
            ]

        yield pair


@contextmanager
def processes(open_index: Callable[[], HybridIndex]) -> Iterator[Pair]:
    """Two processes, each with an index of its own."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    writers = [context.Process(target=_write, args=(open_index, child)) for _, child in pipes]
    for writer in writers:
        writer.start()
    parents = [parent for parent, _ in pipes]
    for parent in parents:
        parent.recv()

    def pair(*tasks: Task) -> list[dict[str, str]]:
        for parent, task in zip(parents, tasks, strict=True):
            parent.send(task)
        return [parent.recv() for parent in parents]

    try:
        yield pair
    finally:
        for parent, writer in zip(parents, writers, strict=True):
            parent.send(None)
            writer.join()


def _write(open_index: Callable[[], HybridIndex], parent: Connection) -> None:
    with open_index() as index:
        parent.send(None)
        while task := parent.recv():
            parent.send(task.run(index))


def _open_elasticsearch(checkpoint: Path, name: str, url: str) -> HybridIndex:
    from m3plugins_elasticsearch import ElasticsearchHybridIndex

    return ElasticsearchHybridIndex.open(name, encoder=M3Encoder.from_pretrained(checkpoint), uri=url)


@contextmanager
def arena(engine: str, race: str, checkpoint: Path, folder: Path, url: str) -> Iterator[tuple[HybridIndex, Pair]]:
    """An index of an engine, and two writers of it."""
    encoder, name = M3Encoder.from_pretrained(checkpoint), f"races_{uuid.uuid4().hex}"
    options: dict[str, Any] = {"encoder": encoder, "passages": CUT if race == "passages" else None}
    with ExitStack() as stack:
        if engine == "memory":
            index: HybridIndex = stack.enter_context(InMemoryHybridIndex(**options))
            yield index, stack.enter_context(threads(index, index))
            return
        if engine == "milvus":
            from m3plugins_milvus import MilvusHybridIndex

            uri = folder / f"{name}.db"
            index = stack.enter_context(MilvusHybridIndex.create(name, uri=uri, **options))
            beside = stack.enter_context(MilvusHybridIndex.open(name, uri=uri, encoder=encoder))
            yield index, stack.enter_context(threads(index, beside))
            return
        from m3plugins_elasticsearch import ElasticsearchHybridIndex

        index = stack.enter_context(ElasticsearchHybridIndex.create(name, uri=url, **options))
        stack.callback(index.drop)
        opens = partial(_open_elasticsearch, checkpoint, name, url)
        pair = processes(opens) if engine == "processes" else threads(index, stack.enter_context(opens()))
        yield index, stack.enter_context(pair)


@contextmanager
def node(engines: list[str]) -> Iterator[str]:
    """The address of a node, where one is needed."""
    if not {"elasticsearch", "processes"} & {*engines}:
        yield ""
        return
    from benchmarks.fixtures import running

    with running() as (url, _):
        yield url


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="of each race on each engine")
    parser.add_argument("--documents", type=int, default=1, help="of a call, each of which is a round")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--races", nargs="+", choices=RACES, default=list(RACES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("milvus-lite", "pymilvus", "elasticsearch"))
    how = f"seed {options.seed}, documents a call {options.documents}"
    print(f"Python {platform.python_version()}, {packages}, {how}\n")
    print("| engine | race | rounds | lost | mixed | refused | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    fine = True
    with node(options.engines) as url, tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder) / "model")
        for engine in options.engines:
            for race in options.races:
                with arena(engine, race, checkpoint, Path(folder), url) as (index, pair):
                    tally = run(index, pair, race, options)
                counts = (tally.rounds, tally.lost, tally.mixed, len(tally.refused))
                print(f"| {engine} | {race} | {' | '.join(map(str, counts))} | {tally.seconds:.0f} |", flush=True)
                for reason in sorted(set(tally.refused)):
                    print(f"refused: {reason}", file=sys.stderr)
                fine = fine and not tally.lost and not tally.mixed
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
