"""Search on Milvus Lite, by its parts: end to end, what fusion adds to bare calls, fetching token vectors, MaxSim.

    python -m benchmarks.search [--documents 20000] [--tokens 180] [--folder DIR]

Embeddings have BGE-M3's shape and are random but for shared topics and Zipf-distributed tokens; queries are given
encoded. 20,000 documents of 180 tokens take 5 GB of disk, as much memory (Milvus Lite holds all that it searches in
memory) and several minutes to index; `--folder` keeps them, and finds them there the next time. What is compared
alternates, call by call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymilvus import MilvusClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.embeddings import DIM, VOCABULARY, Corpus
from benchmarks.fixtures import save_checkpoint
from m3plugins import Document, HybridRetriever, HybridWeights, M3Encoder, M3Output, MultiVectorEmbeddings
from m3plugins.compression import CODECS, get_codec
from m3plugins.fusion import best_first, weighted_sum
from m3plugins.scoring import HeadScores, head_scores, multi_vector_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins_milvus import MilvusHybridIndex, store
from m3plugins_milvus.blocks import POINTER, BlockKeys, join_vectors
from m3plugins_milvus.rows import to_output
from m3plugins_milvus.store import keys_of

K, DEPTH = 10, 100
Call = Callable[[], object]


def table(title: str, *columns: str) -> Table:
    made = Table(title=title)
    for position, column in enumerate(columns):
        made.add_column(column, justify="right" if position else "left")
    return made


def interleaved(calls: dict[str, Call], repetitions: int = 15) -> dict[str, list[float]]:
    """Milliseconds of each call, the calls one after the other in every repetition, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(-1, repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def load_encoder(folder: Path) -> M3Encoder:
    """An encoder of BGE-M3's widths, which is never called."""
    checkpoint = folder / "model"
    if not checkpoint.exists():
        save_checkpoint(checkpoint, hidden_size=DIM, layers=1, heads=16, intermediate_size=64, vocab_size=VOCABULARY)
    return M3Encoder.from_pretrained(checkpoint)


def build(name: str, encoder: M3Encoder, uri: Path, corpus: Corpus, count: int, codec: str) -> MilvusHybridIndex:
    """The index of this name, filled, unless it is there with as many documents."""
    if uri.exists():
        index = MilvusHybridIndex.open(name, encoder=encoder, uri=uri)
        if index.count() == count:
            return index
        index.close()
    index = MilvusHybridIndex.create(name, encoder=encoder, uri=uri, codec=codec)
    documents = (Document(id=str(number), text="seven words that stand for the text " * 20) for number in range(count))
    index.upsert(track(documents, f"indexing {count} documents, {codec}", total=count), corpus.documents(count))
    return index


@dataclass(frozen=True)
class Bare:
    """The requests of a hybrid search as one would write them by hand on `MilvusClient`."""

    client: MilvusClient
    name: str
    weights: HybridWeights

    def search(self, query: M3Output) -> list[str]:
        """The ids of the best K documents, best first."""
        keys = dict.fromkeys(self.propose("dense", query.dense[0]) + self.propose("sparse", query.sparse[0].to_dict()))
        rows = self.fetch(self.name, list(keys), ["id", "dense", "sparse", *POINTER])
        exact = head_scores(query.select(["dense", "sparse"]), to_output(rows, VOCABULARY))
        by_key = {row["key"]: weighted_sum(score, self.weights) for row, score in zip(rows, exact, strict=True)}
        late = [row for row in rows if row["key"] in set(best_first(by_key)[:DEPTH])]
        blocks = {row["key"]: BlockKeys.of(row).vectors for row in late}
        wanted = [key for keys in blocks.values() for key in keys]
        data = {}
        for start in range(0, len(wanted), store.BLOCKS_PER_READ):
            some = wanted[start : start + store.BLOCKS_PER_READ]
            found = self.fetch(f"{self.name}__mv", some, ["data"])
            data |= {row["key"]: row["data"] for row in found}
        final = {}
        for key, own in blocks.items():
            products = get_codec("int8").products(join_vectors([data[k] for k in own]), query.multi_vector.vectors)
            late_score = HeadScores(multi_vector=mean_of_maxima(products))
            final[key] = by_key[key] + weighted_sum(late_score, self.weights)
        best = best_first(final)[:K]
        hits = self.fetch(self.name, best, ["id", "text", "title", "parent_id", "metadata"])
        return [row["id"] for row in sorted(hits, key=lambda row: best.index(row["key"]))]

    def propose(self, field: str, vector: object) -> list[str]:
        """The keys of one signal's candidates."""
        hits = self.client.search(
            self.name,
            data=[vector],
            anns_field=field,
            limit=DEPTH + 1,
            output_fields=["id"],
            search_params={"metric_type": "IP"},
            consistency_level="Strong",
        )
        return [hit["key"] for hit in hits[0]][:DEPTH]

    def fetch(self, name: str, keys: Sequence[str], fields: Sequence[str]) -> list[dict[str, object]]:
        """The rows of these keys."""
        expression = f"key in {json.dumps(list(keys))}"
        return self.client.query(name, expression, list(fields), limit=len(keys), consistency_level="Strong")


def end_to_end(retriever: HybridRetriever, queries: Sequence[M3Output], documents: int) -> Table:
    def timed(query: M3Output) -> float:
        start = time.perf_counter()
        retriever.search_embedded("", query, K)
        return (time.perf_counter() - start) * 1e3

    rows = table(
        f"Three heads, {documents} documents, k={K}, {DEPTH} candidates", "threads", "p50 ms", "p99 ms", "queries/s"
    )
    for query in queries[:3]:
        timed(query)
    for threads in (1, 8):
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            times = list(pool.map(timed, queries))
            rate = len(queries) / (time.perf_counter() - start)
        rows.add_row(str(threads), f"{np.median(times):.0f}", f"{np.percentile(times, 99):.0f}", f"{rate:.1f}")
    return rows


def against_bare(retriever: HybridRetriever, bare: Bare, queries: Sequence[M3Output]) -> Table:
    times: dict[str, list[float]] = {"bare MilvusClient": [], "HybridRetriever": []}
    same = 0
    for position, query in enumerate(queries):
        calls: dict[str, Callable[[M3Output], list[str]]] = {
            "bare MilvusClient": bare.search,
            "HybridRetriever": lambda q: [hit.id for hit in retriever.search_embedded("", q, K)],
        }
        answers = []
        for name in list(calls)[:: 1 if position % 2 else -1]:
            start = time.perf_counter()
            answers.append(calls[name](query))
            times[name].append((time.perf_counter() - start) * 1e3)
        same += answers[0] == answers[1]
    p50 = {name: float(np.median(some)) for name, some in times.items()}
    rows = table(
        f"The same requests; {same} of {len(queries)} answers alike", "by", "min ms", "p50 ms", "more at p50, ms"
    )
    for name, some in times.items():
        rows.add_row(name, f"{min(some):.0f}", f"{p50[name]:.0f}", f"{p50[name] - p50['bare MilvusClient']:+.0f}")
    return rows


def fetching(indexes: dict[str, MilvusHybridIndex], query: M3Output, ids: Sequence[str]) -> Table:
    rows = table("Token vectors by key", "codec", "documents", "MB", "fetch ms", "of them bytes ms", "MaxSim ms")
    calls: dict[str, Call] = {}
    sizes: dict[str, float] = {}
    for codec, index in indexes.items():
        for depth in (10, 30, 100):
            name = f"{codec} {depth}"
            stored, fields = index._store, ["id", *POINTER]
            pointers = stored.documents.fetch(keys_of(ids[:depth]), fields)
            found = list(stored.complete(pointers, fields, vectors=True))
            data = [join_vectors(one.vectors) for one in found]
            sizes[name] = sum(len(block) for one in found for block in one.vectors) / 1e6
            calls |= {
                f"{name} fetch": lambda stored=stored, pointers=pointers, fields=fields: list(
                    stored.complete(pointers, fields, vectors=True)
                ),
                f"{name} bytes": lambda found=found: [join_vectors(one.vectors) for one in found],
                f"{name} score": lambda codec=codec, data=data: [
                    mean_of_maxima(get_codec(codec).products(some, query.multi_vector.vectors)) for some in data
                ],
            }
    times = interleaved(calls)
    for name, size in sizes.items():
        parts = (times[f"{name} {part}"] for part in ("fetch", "bytes", "score"))
        cells = (f"{min(part):.1f} / {np.median(part):.1f}" for part in parts)
        rows.add_row(*name.split(), f"{size:.1f}", *cells)
    rows.caption = "min / median"
    return rows


def max_sim(corpus: Corpus) -> Table:
    vectors = [output.multi_vector[0] for output in corpus.documents(DEPTH)]
    documents, codec = MultiVectorEmbeddings.from_list(vectors), get_codec("int8")
    stored = [codec.encode(some) for some in vectors]
    square = documents.vectors[:2048]
    peak_call, copy_call = (lambda: square @ square.T), documents.vectors.copy
    tokens = len(documents.vectors)
    title = f"MaxSim of {DEPTH} documents, {tokens} tokens, {DIM} wide"
    rows = table(
        title, "documents", "query tokens", "min ms", "median ms", "GFLOP/s", "of peak GEMM", "of copy bandwidth"
    )
    for length in (12, 32):
        query = corpus.query(0, length).multi_vector
        times = interleaved(
            {
                "float32": lambda query=query: multi_vector_scores(query, documents),
                "int8 bytes": lambda query=query: [mean_of_maxima(codec.products(d, query.vectors)) for d in stored],
                "peak": peak_call,
                "copy": copy_call,
            }
        )
        peak = 2 * len(square) ** 2 * DIM / min(times["peak"]) / 1e6
        bandwidth = 2 * documents.vectors.nbytes / min(times["copy"])
        for name, size in (("float32", documents.vectors.nbytes), ("int8 bytes", sum(map(len, stored)))):
            best = min(times[name])
            rate = 2 * tokens * length * DIM / best / 1e6
            rows.add_row(
                name,
                str(length),
                f"{best:.1f}",
                f"{np.median(times[name]):.1f}",
                f"{rate:.0f}",
                f"{rate / peak:.0%}",
                f"{size / best / bandwidth:.0%}",
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=180, help="a document, within a fifth")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--codec-documents", type=int, default=400, help="in each index of a codec")
    parser.add_argument("--folder", type=Path, help="where the indexes stay; a temporary folder by default")
    arguments = parser.parse_args()
    console = Console(width=120)
    corpus = Corpus(arguments.tokens)
    queries = [corpus.query(number) for number in range(arguments.queries)]
    console.print(max_sim(corpus))
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        encoder = load_encoder(folder)
        with ExitStack() as codecs:
            indexes = {
                codec: codecs.enter_context(
                    build("docs", encoder, folder / f"{codec}.db", corpus, arguments.codec_documents, codec)
                )
                for codec in CODECS
            }
            ids = [str(number) for number in range(DEPTH)]
            console.print(fetching(indexes, queries[0], ids))
        uri = folder / "search.db"
        index = stack.enter_context(build("docs", encoder, uri, corpus, arguments.documents, "int8"))
        retriever = HybridRetriever(index, candidates=DEPTH, multi_vector_depth=DEPTH)
        bare = Bare(MilvusClient(str(uri)), index.name, retriever.weights)
        console.print(end_to_end(retriever, queries, arguments.documents))
        console.print(against_bare(retriever, bare, queries))
        bare.client.close()


if __name__ == "__main__":
    main()
