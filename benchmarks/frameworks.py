"""Costs of LangChain and LlamaIndex beside the core's, and how often a text goes through the model.

    python -m benchmarks.frameworks [--documents 1000] [--queries 50] [--rounds 5]

m3-mini over the standard library's docstrings, in memory, where a search varies least. Every query and every
collection goes through the core, LangChain and LlamaIndex in turns, each first as often as the others, and what is
remembered of a query is forgotten between them. Indexing is measured in CPU time, of one thread. `passes` counts the
texts that the model read, for each text given: stock stores ask a dense and a sparse embedder, each of which would run
the model.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from langchain_core.documents import Document as LangChainDocument
from langchain_milvus import Milvus
from llama_index.core.schema import TextNode
from llama_index.retrievers.m3plugins import M3Retriever as LlamaIndexRetriever
from llama_index.vector_stores.m3plugins import M3VectorStore as LlamaIndexStore
from rich.console import Console
from rich.table import Table

from examples.stdlib_corpus import documents as docstrings
from langchain_m3plugins import M3Embeddings, M3SparseEmbeddings, milvus_params
from langchain_m3plugins import M3Retriever as LangChainRetriever
from langchain_m3plugins import M3VectorStore as LangChainStore
from m3plugins import Document, HybridIndex, HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins_milvus import MilvusHybridIndex

K = 10


class Passes:
    """Counts the texts that an encoder's model reads."""

    def __init__(self, encoder: M3Encoder) -> None:
        self.texts = 0
        loaded = encoder.warm_up()._load()
        encode = loaded.encode

        def counted(window: Sequence[Any], *arguments: Any) -> Any:
            self.texts += len(window)
            return encode(window, *arguments)

        loaded.encode = counted

    def of(self, call: Callable[[], object], texts: int) -> float:
        """Texts read during the call, for each of `texts`."""
        before = self.texts
        call()
        return (self.texts - before) / texts


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="right" if position else "left")
    return made


def in_turn(calls: dict[str, Callable[..., object]], number: int) -> list[tuple[str, Callable[..., object]]]:
    """The calls in another order every time."""
    items = list(calls.items())
    first = number % len(items)
    return items[first:] + items[:first]


def searches(index: HybridIndex, queries: Sequence[str], rounds: int) -> Table:
    """Milliseconds a query, and what each framework adds, query by query."""
    retriever = HybridRetriever(index)
    langchain = LangChainRetriever(retriever=retriever, k=K)
    llama_index = LlamaIndexRetriever(retriever=retriever, similarity_top_k=K)
    calls: dict[str, Callable[[str], object]] = {
        "core": lambda query: retriever.search(query, K),
        "LangChain": langchain.invoke,
        "LlamaIndex": llama_index.retrieve,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(-1, rounds):
        for number, query in enumerate(queries):
            for name, call in in_turn(calls, round_ + number):
                index.encoder.memo.clear()
                start = time.perf_counter()
                call(query)
                if round_ >= 0:
                    times[name].append((time.perf_counter() - start) * 1e3)
    made = table(f"Search, k = {K}: {len(queries)} queries × {rounds}", "through", "p50 ms", "added, median ms")
    for name, values in times.items():
        added = statistics.median(a - b for a, b in zip(values, times["core"], strict=True))
        made.add_row(name, f"{statistics.median(values):.1f}", "" if name == "core" else f"{added:+.2f}")
    return made


def indexing(encoder: M3Encoder, rows: Sequence[dict[str, Any]], rounds: int) -> Table:
    """CPU seconds to index, each time into an index of its own."""
    core = [Document(id=row["_id"], text=row["text"], metadata=row["metadata"]) for row in rows]
    langchain = [LangChainDocument(row["text"], id=row["_id"], metadata=row["metadata"]) for row in rows]
    plain = {"excluded_embed_metadata_keys": ["kind", "module", "line"]}  # the same texts for all three
    llama_index = [TextNode(id_=row["_id"], text=row["text"], metadata=row["metadata"], **plain) for row in rows]
    calls: dict[str, Callable[[HybridRetriever], object]] = {
        "core": lambda retriever: retriever.index.upsert(core),
        "LangChain": lambda retriever: LangChainStore(retriever).add_documents(langchain),
        "LlamaIndex": lambda retriever: LlamaIndexStore(retriever=retriever).add(llama_index),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    torch.set_num_threads(1)
    for round_ in range(rounds):
        for name, call in in_turn(calls, round_):
            retriever = HybridRetriever(InMemoryHybridIndex(encoder=encoder))
            start = time.process_time()
            call(retriever)
            times[name].append(time.process_time() - start)
    made = table(f"Indexing {len(rows)} documents, best of {rounds}", "through", "CPU s", "against core")
    for name, values in times.items():
        made.add_row(name, f"{min(values):.2f}", f"{min(values) / min(times['core']) - 1:+.1%}")
    return made


def passes(encoder: M3Encoder, rows: Sequence[dict[str, Any]], folder: Path) -> Table:
    """Texts read by the model for each text given."""
    texts = [row["text"] for row in rows]
    counter = Passes(encoder)

    def stock(memo: bool) -> None:
        embedders = [M3Embeddings(encoder=encoder), M3SparseEmbeddings(encoder=encoder)]
        if not memo:
            encoder.memo.max_bytes = 0
        uri = str(folder / f"stock-{memo}.db")
        Milvus.from_texts(texts, embedders, connection_args={"uri": uri}, **milvus_params())
        encoder.memo.max_bytes = 256 << 20

    def own() -> None:
        with MilvusHybridIndex.create("docs", encoder=encoder, uri=str(folder / "own.db")) as index:
            LangChainStore(HybridRetriever(index)).add_texts(texts)

    made = table("Passes a text", "store", "passes")
    for name, call in {
        "langchain_milvus.Milvus, two embedders, memo off": lambda: stock(False),
        "langchain_milvus.Milvus, two embedders": lambda: stock(True),
        "M3VectorStore, three heads": own,
    }.items():
        encoder.memo.clear()
        made.add_row(name, f"{counter.of(call, len(texts)):.2f}")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    rows: list[dict[str, Any]] = list(islice(docstrings(Path(sysconfig.get_paths()["stdlib"])), options.documents))
    queries = [row["text"].split("\n")[0] for row in rows[:: len(rows) // options.queries]][: options.queries]
    encoder, console = M3Encoder.from_pretrained("m3-mini").warm_up(), Console()
    index = InMemoryHybridIndex(encoder=encoder)
    index.upsert(Document(id=row["_id"], text=row["text"], metadata=row["metadata"]) for row in rows)
    console.print(searches(index, queries, options.rounds))
    console.print(indexing(encoder, rows, options.rounds))
    with tempfile.TemporaryDirectory() as folder:
        console.print(passes(encoder, rows[:200], Path(folder)))


if __name__ == "__main__":
    main()
