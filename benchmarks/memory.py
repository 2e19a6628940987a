"""Peak memory: encoding into a sink must not grow with the corpus, indexing must cost no more than bare inserts.

    python -m benchmarks.memory [--small 1000] [--large 20000] [--indexed 5000]

Each measurement is the peak resident size of a process of its own. The bare insert encodes the same texts and
stores the same rows with MilvusClient directly: no digests, no checks, no report.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.children import peak_mib, report, run
from benchmarks.fixtures import save_checkpoint
from benchmarks.texts import mixed_texts
from m3plugins import Document, M3Encoder


def encode(encoder: M3Encoder, count: int, folder: str) -> None:
    for _ in encoder.iter_documents(mixed_texts(count)):
        pass


def index(encoder: M3Encoder, count: int, folder: str) -> None:
    from m3plugins_milvus import MilvusHybridIndex

    with MilvusHybridIndex.create("docs", encoder=encoder, uri=f"{folder}/index.db", codec="int8") as made:
        report = made.upsert(Document(id=str(i), text=text) for i, text in enumerate(mixed_texts(count)))
        assert report.written == count


def bare(encoder: M3Encoder, count: int, folder: str) -> None:
    from pymilvus import MilvusClient

    from m3plugins.compression import get_codec
    from m3plugins.indexing.writer import EmbeddedBatch
    from m3plugins_milvus import MilvusHybridIndex
    from m3plugins_milvus.blocks import BlockKeys, block_rows
    from m3plugins_milvus.rows import to_row

    uri = f"{folder}/bare.db"
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=uri, codec="int8") as made:
        client = MilvusClient(uri)
        position = 0
        for output in encoder.iter_documents(mixed_texts(count)):
            documents = [Document(id=str(position + i), text="") for i in range(len(output))]
            batch = EmbeddedBatch(documents, [document.digest() for document in documents], output)
            rows, blocks = [], []
            for i in range(len(output)):
                vectors = get_codec("int8").encode(output.multi_vector[i])
                row, text = to_row(batch, i, vectors, made._store.identity)
                blocks += block_rows(BlockKeys.of(row), vectors, text)
                rows.append(row)
            client.upsert("docs__mv", blocks)
            client.upsert("docs", rows)
            position += len(output)
        client.flush("docs")
        client.flush("docs__mv")
        client.close()


WORK = {"encode": encode, "index": index, "bare": bare}


def child(arguments: argparse.Namespace) -> None:
    encoder = M3Encoder.from_pretrained(arguments.checkpoint, document_max_length=512).warm_up()
    start = time.perf_counter()
    WORK[arguments.child](encoder, arguments.count, arguments.folder)
    report(mib=peak_mib(), seconds=time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=20_000)
    parser.add_argument("--indexed", type=int, default=5000)
    for name in ("--child", "--checkpoint", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return

    table = Table(title="Peak memory of a process, model included (random M3, 2 layers, width 256)")
    for column in ("work", "documents", "MiB", "ratio", "documents/s"):
        table.add_column(column, justify="left" if column == "work" else "right")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder) / "model", hidden_size=256, intermediate_size=1024)
        runs = [("encode", arguments.small), ("encode", arguments.large)]
        runs += [("bare", arguments.indexed), ("index", arguments.indexed)]
        base: dict[str, float] = {}
        for work, count in runs:
            options = ["--count", count, "--checkpoint", checkpoint, "--folder", folder]
            result = run("benchmarks.memory", "--child", work, *options)
            against = base.setdefault("encode" if work == "encode" else "index", result["mib"])
            rate = f"{count / result['seconds']:.0f}"
            table.add_row(work, str(count), f"{result['mib']:.0f}", f"{result['mib'] / against:.2f}", rate)
    Console().print(table)


if __name__ == "__main__":
    main()
