"""Races: two writers of one document at the same moment, again and again, on every engine.

    python benchmarks/races.py [--rounds 1000] [--engines memory milvus elasticsearch processes] [--seed 0]

Two races, each of so many rounds:

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

sys.path.insert(0, str(Path(__file__).parents[1]))
from m3plugins import Document, HybridIndex, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import Passages
from tests.tiny import SENTENCES, save_checkpoint

CUT = Passages(size=40, overlap=8)
WORDS = " ".join(SENTENCES).split()
ENGINES = ("memory", "milvus", "elasticsearch", "processes")
RACES = ("metadata", "passages")
ID = "a"


@dataclass(frozen=True)
class Task:
    """What one writer does in a round.

    Attributes:
        verb: Of the index.
        document: What it stores, or of what the id is deleted.
        delay: Seconds after the start.
    """

    verb: str
    document: Document
    delay: float = 0.0

    def run(self, index: HybridIndex) -> list[str]:
        """Why it could not be done."""
        time.sleep(self.delay)
        if self.verb == "upsert":
            return [failure.reason for failure in index.upsert([self.document]).failed]
        if self.verb == "update_metadata":
            return [failure.reason for failure in index.update_metadata({ID: self.document.metadata}).failed]
        index.delete([ID])
        return []


@dataclass
class Tally:
    """What the rounds of one race came to."""

    rounds: int = 0
    lost: int = 0
    mixed: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


Pair = Callable[[Task, Task], list[list[str]]]
"""Lets two writers do these at the same time; the reasons why they could not."""


def document(choose: random.Random, number: int, by: str) -> Document:
    text = " ".join(choose.choices(WORDS, k=choose.randint(10, 150)))
    return Document(id=ID, text=text, metadata={"by": by, "round": number})


def metadata_race(index: HybridIndex, pair: Pair, choose: random.Random, number: int, tally: Tally) -> None:
    before = Document(id=ID, text=f"{choose.choice(SENTENCES)} {number}", parent_id=f"old {number}")
    index.upsert([before])
    text = before.text if number % 2 else f"{choose.choice(SENTENCES)} {number}, another"
    new = Document(id=ID, text=text, parent_id=f"new {number}", metadata={"by": "upsert"})
    note = Document(id=ID, text="", metadata={"by": "update"})
    of_upsert, of_update = pair(
        Task("upsert", new, choose.uniform(0, 0.01)), Task("update_metadata", note, choose.uniform(0, 0.01))
    )
    tally.refused += of_upsert + of_update
    (stored,) = index.get([ID])
    if not of_upsert and (stored.text, stored.parent_id) != (new.text, new.parent_id):
        tally.lost += 1
    if stored.metadata not in (new.metadata, note.metadata):
        tally.mixed += 1


def passages_race(index: HybridIndex, pair: Pair, choose: random.Random, number: int, tally: Tally) -> None:
    one, other = document(choose, number, "one"), document(choose, number, "other")
    deletes = number % 3 == 0
    done = pair(
        Task("upsert", one, choose.uniform(0, 0.02)),
        Task("delete" if deletes else "upsert", other, choose.uniform(0, 0.02)),
    )
    tally.refused += [reason for reasons in done for reason in reasons]
    stored = {passage.id: (passage.text, dict(passage.metadata)) for passage in index.scan()}
    allowed = [
        {f"{ID}#{n}": (text, dict(each.metadata)) for n, text in enumerate(CUT.split(each.text, index.encoder))}
        for each in ([one] if deletes else [one, other])
    ]
    if stored not in ([*allowed, {}] if deletes else allowed):
        tally.mixed += 1


def run(index: HybridIndex, pair: Pair, race: str, rounds: int, seed: int) -> Tally:
    """The rounds of one race."""
    choose, tally, started = random.Random(seed), Tally(), time.perf_counter()
    play = metadata_race if race == "metadata" else passages_race
    for number in range(rounds):
        play(index, pair, choose, number, tally)
        tally.rounds += 1
    tally.seconds = time.perf_counter() - started
    return tally


@contextmanager
def threads(first: HybridIndex, second: HybridIndex) -> Iterator[Pair]:
    """Two threads, each with an index object."""
    with ThreadPoolExecutor(2) as pool:

        def pair(*tasks: Task) -> list[list[str]]:
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

    def pair(*tasks: Task) -> list[list[str]]:
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
    from tests.elasticsearch.node import running

    with running() as (url, _):
        yield url


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="of each race on each engine")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--races", nargs="+", choices=RACES, default=list(RACES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("milvus-lite", "pymilvus", "elasticsearch"))
    print(f"Python {platform.python_version()}, {packages}, seed {options.seed}\n")
    print("| engine | race | rounds | lost | mixed | refused | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    fine = True
    with node(options.engines) as url, tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder) / "model")
        for engine in options.engines:
            for race in options.races:
                with arena(engine, race, checkpoint, Path(folder), url) as (index, pair):
                    tally = run(index, pair, race, options.rounds, options.seed)
                counts = (tally.rounds, tally.lost, tally.mixed, len(tally.refused))
                print(f"| {engine} | {race} | {' | '.join(map(str, counts))} | {tally.seconds:.0f} |", flush=True)
                for reason in sorted(set(tally.refused)):
                    print(f"refused: {reason}", file=sys.stderr)
                fine = fine and not tally.lost and not tally.mixed
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
