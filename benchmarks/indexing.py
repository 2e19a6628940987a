"""Indexing rate on Milvus Lite against its two parts, which it overlaps: bare encoding and bare insertion.

    python -m benchmarks.indexing [--documents 500] [--layers 1] [--repetitions 2]

The bare insert stores the same rows with MilvusClient directly, of embeddings made before. No overlap can be faster
than the slower part, nor than the CPU time of both shared by all cores: "of the limit" is the rate against the
greater of the two. The three works alternate; the times are each one's least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pymilvus import MilvusClient
from rich.console import Console
from rich.table import Table

from benchmarks.fixtures import save_checkpoint
from benchmarks.texts import mixed_texts
from m3plugins import Document, M3Encoder, M3Output
from m3plugins.compression import get_codec
from m3plugins.indexing.writer import EmbeddedBatch
from m3plugins_milvus import MilvusHybridIndex
from m3plugins_milvus.blocks import BlockKeys, block_rows
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.rows import to_row


def encode(encoder: M3Encoder, texts: Sequence[str]) -> list[M3Output]:
    return list(encoder.iter_documents(texts))


def insert(identity: Identity, outputs: Sequence[M3Output], texts: Sequence[str], client: MilvusClient) -> None:
    position = 0
    for output in outputs:
        documents = [Document(id=str(i), text=texts[i]) for i in range(position, position + len(output))]
        batch = EmbeddedBatch(documents, [document.digest() for document in documents], output)
        rows, blocks = [], []
        for i in range(len(output)):
            vectors = get_codec(identity.codec).encode(output.multi_vector[i])
            row, rest = to_row(batch, i, vectors, identity)
            blocks += block_rows(BlockKeys.of(row), vectors, rest)
            rows.append(row)
        client.insert("docs__mv", blocks)
        client.insert("docs", rows)
        position += len(output)
    client.flush("docs")
    client.flush("docs__mv")


def upsert(index: MilvusHybridIndex, texts: Sequence[str]) -> None:
    report = index.upsert(Document(id=str(i), text=text) for i, text in enumerate(texts))
    assert report.written == len(texts)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU seconds, those of Milvus Lite too, which runs in this process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def measure(encoder: M3Encoder, texts: Sequence[str], repetitions: int) -> dict[str, tuple[float, float]]:
    outputs = encode(encoder, texts)
    runs: dict[str, list[tuple[float, float]]] = {"bare encode": [], "bare insert": [], "index.upsert": []}
    for _ in range(repetitions):
        runs["bare encode"].append(timed(partial(encode, encoder, texts)))
        with tempfile.TemporaryDirectory() as folder:
            uri = str(Path(folder) / "bare.db")
            with MilvusHybridIndex.create("docs", encoder=encoder, uri=uri, codec="int8"):  # makes the collections
                client, identity = MilvusClient(uri), Identity.of(encoder, codec="int8")
                runs["bare insert"].append(timed(partial(insert, identity, outputs, texts, client)))
                client.close()
            target = Path(folder) / "index.db"
            with MilvusHybridIndex.create("docs", encoder=encoder, uri=target, codec="int8") as index:
                runs["index.upsert"].append(timed(partial(upsert, index, texts)))
    return {work: (min(wall for wall, _ in times), min(cpu for _, cpu in times)) for work, times in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--layers", type=int, default=1, help="of the random model of BGE-M3's width")
    parser.add_argument("--repetitions", type=int, default=2)
    arguments = parser.parse_args()
    texts, cores = list(mixed_texts(arguments.documents)), len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        shape = {"hidden_size": 1024, "heads": 16, "intermediate_size": 4096, "vocab_size": 250_002}
        wide = save_checkpoint(Path(folder), layers=arguments.layers, **shape)
        for name, model in ((f"random M3, 1024 wide, {arguments.layers} layers", wide), ("m3-mini", "m3-mini")):
            encoder = M3Encoder.from_pretrained(model, document_max_length=512).warm_up()
            times = measure(encoder, texts, arguments.repetitions)
            Console(width=120).print(table(f"{name}: {len(texts)} documents, int8, {cores} cores", times, cores))


def table(title: str, times: dict[str, tuple[float, float]], cores: int) -> Table:
    parts = [times["bare encode"], times["bare insert"]]
    slower = max(wall for wall, _ in parts)
    limit = max(slower, sum(cpu for _, cpu in parts) / cores)
    made = Table(title=title)
    for column in ("work", "seconds", "CPU s", "of the slower part", "of the limit"):
        made.add_column(column, justify="left" if column == "work" else "right")
    for work, (wall, cpu) in times.items():
        ratios = (f"{slower / wall:.2f}", f"{limit / wall:.2f}") if work == "index.upsert" else ("", "")
        made.add_row(work, f"{wall:.1f}", f"{cpu:.1f}", *ratios)
    return made


if __name__ == "__main__":
    main()
