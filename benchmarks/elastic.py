"""Elasticsearch: writing beside the client's own bulk helpers, search beside its bare requests, bytes by codec.

    M3_TEST_ES_URL=http://localhost:9200 python -m benchmarks.elastic [--documents 20000] [--tokens 180]

Embeddings have BGE-M3's shape and are random but for shared topics and Zipf-distributed tokens; queries are given
encoded. Without the variable a node is started from the archive that M3_TEST_ES_ZIP names. What is compared
alternates. 20,000 documents of 180 tokens take 5 GB of disk while they are written.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from elasticsearch import Elasticsearch
from elasticsearch.helpers import bulk, parallel_bulk
from elasticsearch.serializer import OrjsonSerializer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.embeddings import DIM, VOCABULARY, Corpus
from benchmarks.fixtures import running, save_checkpoint
from m3plugins import Document, HybridRetriever, M3Encoder, M3Output
from m3plugins.compression import CODECS
from m3plugins.indexing.writer import EmbeddedBatch
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from m3plugins_elasticsearch.bulk import AT_ONCE, CHUNK_BYTES
from m3plugins_elasticsearch.rows import our_fields, own_fields

RETENTION_S = 65.0
"""Elasticsearch looks every 30 s at what it need not keep."""
TEXT = "seven words that stand for the text " * 20


def documents(first: int, count: int) -> list[Document]:
    return [Document(id=str(number), text=TEXT, metadata={"number": number}) for number in range(first, first + count)]


def outputs(corpus: Corpus, count: int) -> list[M3Output]:
    return list(corpus.documents(count))


class Stopwatch:
    """Seconds during which an index's client has something under way, from a call to its parsed answer."""

    def __init__(self, client: Elasticsearch) -> None:
        self.seconds = 0.0
        self._call = client.perform_request
        self._lock, self._under_way, self._since = threading.Lock(), 0, 0.0
        client.perform_request = self._timed  # type: ignore[method-assign]

    def _timed(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self._since = self._since if self._under_way else time.perf_counter()
            self._under_way += 1
        try:
            return self._call(*arguments, **options)
        finally:
            with self._lock:
                self._under_way -= 1
                self.seconds += 0.0 if self._under_way else time.perf_counter() - self._since


def writing(url: str, encoder: M3Encoder, corpus: Corpus, count: int, rounds: int) -> Table:
    """Documents a second: upsert with embeddings given, and the client's helpers with the very same bodies."""
    table = Table("", "docs/s", "× helpers.bulk", title=f"writing {count} documents of given embeddings, int8")
    embedded = outputs(corpus, count)
    client = Elasticsearch(url, serializer=OrjsonSerializer(), request_timeout=60)
    index = ElasticsearchHybridIndex.create(f"m3-bench-{uuid.uuid4().hex}", encoder=encoder, uri=url, codec="int8")
    actions = list(bodies(index, count, embedded))
    sent = {"index": index.name, "max_chunk_bytes": CHUNK_BYTES}

    def one_request() -> None:
        bulk(client, actions, **sent)
        client.indices.refresh(index=index.name)

    def requests_at_once() -> None:
        deque(parallel_bulk(client, actions, thread_count=AT_ONCE, **sent), maxlen=0)
        client.indices.refresh(index=index.name)

    def upsert() -> None:
        assert index.upsert(documents(0, count), embedded).written == count

    ways = {"helpers.bulk": one_request, f"parallel_bulk, {AT_ONCE} threads": requests_at_once, "upsert": upsert}
    best = dict.fromkeys(ways, 0.0)
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            ways[name]()
            best[name] = max(best[name], count / (time.perf_counter() - start))
            index.delete([str(number) for number in range(count)])
    index.drop()
    for name, rate in best.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / best['helpers.bulk']:.2f}")
    return table


def bodies(index: ElasticsearchHybridIndex, count: int, embedded: list[M3Output]) -> Iterator[dict[str, Any]]:
    position = 0
    for output in embedded:
        some = documents(position, len(output))
        batch = EmbeddedBatch(some, [document.digest() for document in some], output)
        for row, document in enumerate(some):
            ours = our_fields(document, batch.digests[row], output[row], index.identity.codec)
            ours["dense"] = ours["dense"].tolist()
            yield {"_id": document.id, "_source": {**ours, **own_fields(document), "metadata": dict(document.metadata)}}
        position += len(output)


def sizes(url: str, encoder: M3Encoder, corpus: Corpus, count: int) -> Table:
    """Bytes a document: as written, and once Elasticsearch no longer holds the written bodies for its recovery."""
    table = Table("codec", "as written", "later", title=f"bytes a document, of {count}")
    for codec in CODECS:
        with ElasticsearchHybridIndex.create(f"m3-bench-{codec}", encoder=encoder, uri=url, codec=codec) as index:
            indices = index._connection.client.options(request_timeout=600).indices

            def size(name: str = index.name, indices: Any = indices) -> str:
                indices.flush(index=name)
                indices.forcemerge(index=name, max_num_segments=1)
                stats = indices.stats(index=name, metric="store")
                return f"{stats['_all']['primaries']['store']['size_in_bytes'] / count:,.0f}"

            index.upsert(documents(0, count), corpus.documents(count))
            written = size()
            indices.put_settings(index=index.name, settings={"soft_deletes.retention_lease.period": "0ms"})
            time.sleep(RETENTION_S)
            index.upsert([Document(id="0", text="another text")], corpus.query(0))  # something to merge
            table.add_row(codec, written, size())
            index.drop()
    return table


def searching(index: ElasticsearchHybridIndex, corpus: Corpus, depth: int, queries: int) -> list[str]:
    retriever = HybridRetriever(index, multi_vector_depth=depth)
    watch = Stopwatch(index._connection.client)
    total, ours = [], []
    for number in range(-3, queries):
        query = corpus.query(number + 3)
        watch.seconds, start = 0.0, time.perf_counter()
        assert len(retriever.search_embedded("", query, 10)) == 10
        seconds = time.perf_counter() - start
        if number >= 0:
            total.append(seconds * 1e3)
            ours.append((seconds - watch.seconds) * 1e3)
    p50, p99 = np.percentile(total, [50, 99])
    own50, own99 = np.percentile(ours, [50, 99])
    return [f"{p50:.0f}", f"{p99:.0f}", f"{own50:.1f}", f"{own99:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--written", type=int, default=1_000, help="documents of the comparison with the bulk helpers")
    parser.add_argument("--tokens", type=int, default=180)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--codecs", nargs="+", choices=list(CODECS), default=["int8", "binary"])
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    console = Console()
    corpus = Corpus(tokens=options.tokens)
    with running() as (url, _), tempfile.TemporaryDirectory() as folder:
        shape = {"hidden_size": DIM, "layers": 1, "heads": 16, "intermediate_size": 64, "vocab_size": VOCABULARY}
        encoder = M3Encoder.from_pretrained(save_checkpoint(Path(folder), **shape))
        console.print(writing(url, encoder, corpus, options.written, options.rounds))
        console.print(sizes(url, encoder, corpus, options.written))
        table = Table(
            "codec",
            "depth",
            "p50 ms",
            "p99 ms",
            "not in the client, p50 ms",
            "p99 ms",
            title=f"search among {options.documents} documents, {DIM} dimensions, {options.tokens} tokens",
        )
        for codec in options.codecs:
            name = f"m3-bench-{codec}"
            with ElasticsearchHybridIndex.create(name, encoder=encoder, uri=url, codec=codec) as index:
                try:
                    some = track(documents(0, options.documents), f"indexing, {codec}", console=Console(stderr=True))
                    index.upsert(some, corpus.documents(options.documents))
                    index._connection.client.options(request_timeout=900).indices.forcemerge(
                        index=name, max_num_segments=1
                    )
                    for depth in (100, 50):
                        table.add_row(codec, str(depth), *searching(index, corpus, depth, options.queries))
                finally:
                    index.drop()
        console.print(table)


if __name__ == "__main__":
    main()
