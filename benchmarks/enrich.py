"""The enricher of Elasticsearch under fire, and its lag: what it does while others write, and somebody kills things.

    M3_TEST_ES_ZIP=… python -m benchmarks.enrich [--documents 20000] [--edits 40000] [--model m3-mini]

A process writes documents and edits them (whole and in part) at full speed, while two processes of `m3 enrich
--watch` follow. One of these is killed with -9 and started again, and so is the node (not where M3_TEST_ES_URL names a
running one, in place of M3_TEST_ES_ZIP). When the last change is settled, every document must have the vectors of its
last text and be what the writer made it. Then one document after the other is written at a steady rate, and the time
from its write until a search finds its vectors is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch
from elasticsearch.helpers import streaming_bulk
from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import Node, running
from m3plugins import M3Encoder
from m3plugins_elasticsearch import AttachedIndex
from m3plugins_elasticsearch.enricher import Enricher

WORDS = "fox river bank lazy dog brown quick jumps answer question passage night morning city train".split()
PROPERTIES = {
    "body": {"type": "text"},
    "edit": {"type": "integer"},
    "number": {"type": "integer"},
    "at": {"type": "double"},
}
CHUNK = 200
SAMPLE = 200
FOUND = {"exists": {"field": "m3.dense"}}


def text(choose: random.Random, number: int, edit: int) -> str:
    return f"{' '.join(choose.choices(WORDS, k=8))} {number} edit {edit}"


# The process that writes


def write(url: str, index: str, documents: int, edits: int, record: Path) -> None:
    """Writes all documents, then edits, each until it is acknowledged; tells how many, and records the last texts."""
    choose, last, started = random.Random(0), dict[str, str](), time.perf_counter()

    def actions() -> Iterator[dict[str, object]]:
        for number in range(documents + edits):
            which, edit = (number, 0) if number < documents else (choose.randrange(documents), number - documents + 1)
            source = {"body": text(choose, which, edit), "edit": edit, "number": which}
            last[str(which)] = str(source["body"])
            if edit % 2:
                yield {"_op_type": "update", "_id": str(which), "doc": source, "retry_on_conflict": 10}
            else:
                yield {"_id": str(which), "_source": source}

    with Elasticsearch(url, request_timeout=60) as client:
        done, pending = 0, []
        for action in actions():
            pending.append(action)
            if len(pending) == CHUNK:
                acknowledged(client, index, pending)
                done, pending = done + len(pending), []
                print(done, flush=True)
        acknowledged(client, index, pending)
    record.write_text(json.dumps({"seconds": time.perf_counter() - started, "texts": last}))


def acknowledged(client: Elasticsearch, index: str, actions: list[dict[str, object]]) -> None:
    """Repeats them, in their order, until all are done."""
    while True:
        try:
            if all(done for done, _ in streaming_bulk(client, [dict(a) for a in actions], index=index, max_retries=9)):
                return
        except (ApiError, TransportError, OSError):
            time.sleep(0.5)


def write_steadily(url: str, index: str, rate: float, seconds: float) -> None:
    choose, started = random.Random(1), time.time()
    with Elasticsearch(url) as client:
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, started + number / rate - time.time()))
            source = {"body": text(choose, number, -1), "edit": -1, "number": number, "at": time.time()}
            client.index(index=index, id=f"steady-{number}", document=source)


# The processes that enrich


@dataclass
class Worker:
    """A process of `m3 enrich --watch` that can be killed and started again."""

    command: list[str]
    folder: Path
    lives: list[Path] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Worker:
        """Begins a life, and waits until it has begun, for which it needs Elasticsearch."""
        self.lives.append(self.folder / f"{uuid.uuid4().hex}.jsonl")
        cores = max(1, len(os.sched_getaffinity(0)) // 2)
        with self.lives[-1].open("wb") as told:
            self.process = subprocess.Popen(
                self.command, stdout=told, env={**os.environ, "OMP_NUM_THREADS": str(cores)}
            )
        while not self.last():
            time.sleep(0.1)
        return self

    def die_and_start(self) -> None:
        """Kills it with -9, and starts it again."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None
        self.start()

    def stop(self) -> None:
        """Stops it as a service is stopped."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def last(self, life: int = -1) -> dict[str, float]:
        """Returns the last metrics of a life; none before the first."""
        if self.process is not None and self.process.poll():
            raise SystemExit("a worker has ended by itself")
        lines = self.lives[life].read_text().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def is_idle(self) -> bool:
        """Tells whether it has nothing to do, as of its last line."""
        return not self.last()["behind"] and not self.last()["error"]


def restart(node: Node) -> None:
    """Kills a node with -9, and starts it again."""
    node.kill()
    node.start()


def child(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.enrich", *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload,no-any-return]


def under_fire(
    arguments: argparse.Namespace,
    url: str,
    name: str,
    workers: list[Worker],
    node: Node | None,
    to: Path,
) -> dict[str, float]:
    """Seconds of the writer, and until the last change was settled."""
    total, started = arguments.documents + arguments.edits, time.perf_counter()
    writer = child("write", url, name, arguments.documents, arguments.edits, to, stdout=subprocess.PIPE)
    events: list[tuple[float, Callable[[], None]]] = [(0.3, workers[0].die_and_start)]
    events += [(0.6, partial(restart, node))] if node else []
    assert writer.stdout is not None
    for line in writer.stdout:
        while events and int(line) >= events[0][0] * total:
            events.pop(0)[1]()
    if writer.wait():
        raise SystemExit("the writer failed")
    for _, happen in events:
        happen()
    time.sleep(6)  # until everybody told of it
    while not all(worker.is_idle() for worker in workers):
        time.sleep(1)
    return {"write": json.loads(to.read_text())["seconds"], "settle": time.perf_counter() - started}


def findings(index: AttachedIndex, url: str, record: Path) -> dict[str, int]:
    """Counts what is wrong in the end; all should be 0 but the number of documents."""
    verified = Enricher(index).verify()
    last: dict[str, str] = json.loads(record.read_text())["texts"]
    with Elasticsearch(url) as client:
        pages = (list(last)[i : i + CHUNK] for i in range(0, len(last), CHUNK))
        there = {
            item["_id"]: item["_source"]["body"]
            for ids in pages
            for item in client.mget(index=index.name, ids=ids, source_includes=["body"])["docs"]
            if item["found"]
        }
    sample = random.Random(0).sample(sorted(last), min(SAMPLE, len(last)))
    fresh = index.encoder.encode_documents([last[i] for i in sample], heads=["dense"]).dense
    stored = index.embeddings(sample, heads=["dense"])
    assert fresh is not None
    cosines = [float(fresh[row] @ stored[i].dense[0]) if i in stored else -1 for row, i in enumerate(sample)]
    return {
        "documents": verified.documents,
        "not enriched, or of an older text": verified.documents - verified.enriched,
        "missing": len(last.keys() - there.keys()),
        "edits overwritten": sum(there[i] != expected for i, expected in last.items() if i in there),
        f"of {len(sample)} encoded once more, other vectors": sum(cosine < 0.9999 for cosine in cosines),
    }


def lags(url: str, name: str, rate: float, seconds: float) -> np.ndarray:
    """Seconds from a write until a search finds its vectors, of each document."""
    writer, found, low = child("steady", url, name, rate, seconds), dict[int, float](), 0
    expected, end = int(rate * seconds), time.time() + seconds + 120
    with Elasticsearch(url) as client:
        while len(found) < expected and time.time() < end:
            new = {"bool": {"filter": [{"term": {"edit": -1}}, {"range": {"number": {"gte": low}}}, FOUND]}}
            hits = client.search(
                index=name, query=new, size=10_000, source=False, docvalue_fields=["number", "at"], sort=["number"]
            )["hits"]["hits"]
            now = time.time()
            for hit in hits:
                found.setdefault(hit["fields"]["number"][0], now - hit["fields"]["at"][0])
            while low in found:
                low += 1
            time.sleep(0.05)
    writer.wait()
    if len(found) < expected:
        raise SystemExit(f"{expected - len(found)} of {expected} documents were never found")
    return np.array(list(found.values()))


def main() -> int:
    if sys.argv[1:2] == ["write"]:
        url, index, documents, edits, record = sys.argv[2:]
        write(url, index, int(documents), int(edits), Path(record))
        return 0
    if sys.argv[1:2] == ["steady"]:
        url, index, rate, seconds = sys.argv[2:]
        write_steadily(url, index, float(rate), float(seconds))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--edits", type=int, default=40_000)
    parser.add_argument("--model", default="m3-mini", help="as in `m3 enrich`")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rate", type=float, default=50, help="writes a second")
    parser.add_argument("--seconds", type=float, default=60, help="of the steady writes")
    arguments = parser.parse_args()
    name, encoder = f"m3-bench-enrich-{uuid.uuid4().hex[:8]}", M3Encoder.from_pretrained(arguments.model).warm_up()
    with running() as (url, node), tempfile.TemporaryDirectory() as folder, Elasticsearch(url) as client:
        settings = {"number_of_shards": arguments.shards, "number_of_replicas": 0}
        client.indices.create(index=name, settings=settings, mappings={"properties": PROPERTIES})
        command = [
            sys.executable,
            "-m",
            "m3plugins.cli",
            "enrich",
            "--uri",
            url,
            "--collection",
            name,
            "--text",
            "body",
        ]
        command += ["--model", arguments.model, "--lease", "10", "--watch", "--json"]
        try:
            with AttachedIndex.attach(name, encoder=encoder, uri=url, fields={"text": "body"}) as index:
                workers = [Worker(command, Path(folder)) for _ in range(2)]
                try:
                    for worker in workers:
                        worker.start()
                    record = Path(folder) / "record.json"
                    times = under_fire(arguments, url, name, workers, node, record)
                    told = [worker.last(life) for worker in workers for life in range(len(worker.lives))]
                    wrong = findings(index, url, record)
                    steady = lags(url, name, arguments.rate, arguments.seconds)
                finally:
                    for worker in workers:
                        worker.stop()
        finally:
            for made in client.indices.get(index=f"{name},m3-*.{name}", expand_wildcards="all"):
                client.indices.delete(index=made)
    show(arguments, times, told, wrong, steady, node is not None)
    return any(count for what, count in wrong.items() if what != "documents")


def show(
    arguments: argparse.Namespace,
    times: dict[str, float],
    told: list[dict[str, float]],
    wrong: dict[str, int],
    steady: np.ndarray,
    restarted: bool,
) -> None:
    kills = "a worker and the node killed with -9" if restarted else "a worker killed with -9"
    writes = arguments.documents + arguments.edits
    made = Table(title=f"{writes} writes to {arguments.documents} documents, two workers of {arguments.model}, {kills}")
    made.add_column("what")
    made.add_column("figure", justify="right")
    made.add_row("written, a second", f"{writes / times['write']:.0f}")
    made.add_row("all settled after", f"{times['settle']:.1f} s")
    for name in ("enriched", "conflicts", "unchanged", "dead"):
        made.add_row(f"{name}, as the workers last told", f"{sum(one[name] for one in told):.0f}")
    for what, count in wrong.items():
        made.add_row(what, str(count))
    p50, p99 = np.percentile(steady, [50, 99])
    made.add_row(f"lag at {arguments.rate:.0f} writes a second, p50 / p99", f"{p50:.2f} / {p99:.2f} s")
    Console(width=120).print(made)


if __name__ == "__main__":
    sys.exit(main())
