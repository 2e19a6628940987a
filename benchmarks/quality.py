"""Retrieval quality of m3-mini on collections in the BEIR layout, beside BM25 and MiniLM's own dense vectors.

    python -m benchmarks.quality DIR/scifact DIR/cacm

The five rows of M3 are searched through Milvus Lite (200 candidates a head, int8 token vectors) and, over the whole
collection in float32, in memory ("brute force"); "untrained" is the latter with the heads that training starts from.
BM25: Porter stems, Lucene's stop words, k1 0.9, b 0.4. Documents are cut at 512 tokens, for MiniLM's own dense
vectors at the 256 of its configuration.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
import torch
from rich.console import Console
from rich.table import Table

from m3plugins import HybridIndex, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding.checkpoint import save_head
from m3plugins.encoding.options import Dtype
from m3plugins.evaluation import Dataset, Run, evaluate, measure
from m3plugins.evaluation.significance import bootstrap_interval
from m3plugins_milvus import MilvusHybridIndex

LUCENE_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
).split()
K = 100
COMPARED = (
    ("m3-mini All", "MiniLM dense"),
    ("m3-mini All", "BM25"),
    ("m3-mini All", "m3-mini multi-vector"),
    ("m3-mini All", "m3-mini dense"),
    ("m3-mini All", "untrained All"),
    ("m3-mini dense", "MiniLM dense"),
    ("m3-mini sparse", "BM25, word pieces"),
    ("m3-mini sparse", "untrained sparse"),
    ("m3-mini multi-vector", "untrained multi-vector"),
)


def bm25(dataset: Dataset) -> Run:
    documents = list(dataset.documents())
    tokens = [
        bm25s.tokenize(texts, stopwords=LUCENE_STOP_WORDS, stemmer=Stemmer.Stemmer("porter"), show_progress=False)
        for texts in ([document.content for document in documents], list(dataset.queries.values()))
    ]
    engine = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    engine.index(tokens[0], show_progress=False)
    rows, _ = engine.retrieve(tokens[1], k=K, show_progress=False)
    return {query: [documents[row].id for row in found] for query, found in zip(dataset.queries, rows, strict=True)}


def bm25_over_word_pieces(dataset: Dataset, encoder: M3Encoder) -> Run:
    """Ranks by BM25 over what the sparse head sees: word pieces, without stems or stop words."""
    documents = list(dataset.documents())
    texts = [document.content for document in documents], list(dataset.queries.values())
    corpus, queries = ([encoder.tokenizer.encode(t, add_special_tokens=False).tokens for t in part] for part in texts)
    engine = bm25s.BM25(k1=0.9, b=0.4)
    engine.index(corpus, show_progress=False)
    rows, _ = engine.retrieve(queries, k=K, show_progress=False)
    return {query: [documents[row].id for row in found] for query, found in zip(dataset.queries, rows, strict=True)}


def minilm(dataset: Dataset, encoder: M3Encoder) -> Run:
    documents = list(dataset.documents())
    vectors = encoder.encode_documents([document.content for document in documents], heads=["dense"]).dense
    queries = encoder.encode_queries(dataset.queries.values(), heads=["dense"]).dense
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    return {query: [documents[row].id for row in found] for query, found in zip(dataset.queries, best, strict=True)}


def untrained(encoder: M3Encoder, folder: Path) -> M3Encoder:
    """The model with an identity multi-vector head and equal lexical weights."""
    shutil.copytree(encoder.checkpoint.folder, folder)
    width = encoder.dim
    save_head(folder, "sparse_linear", {"weight": torch.zeros(1, width), "bias": torch.full((1,), 0.2)})
    save_head(folder, "colbert_linear", {"weight": torch.eye(width), "bias": torch.zeros(width)})
    return M3Encoder.from_pretrained(folder, dtype=encoder.options.dtype)


def five_rows(index: HybridIndex, dataset: Dataset, candidates: int) -> Mapping[str, Run]:
    found = evaluate(index, dataset, k=K, candidates=candidates, ignore_identical_ids=False)  # CACM's are by accident
    return {name: row.run for name, row in found.rows.items()}


def runs_of(dataset: Dataset, folder: Path, candidates: int, dtype: Dtype) -> dict[str, Run]:
    encoder = M3Encoder.from_pretrained("m3-mini", dtype=dtype)
    documents = list(dataset.documents())
    embeddings = encoder.encode_documents([document.content for document in documents], progress=True)
    runs = {
        "BM25": bm25(dataset),
        "BM25, word pieces": bm25_over_word_pieces(dataset, encoder),
        "MiniLM dense": minilm(dataset, M3Encoder.from_pretrained("m3-mini", document_max_length=256, dtype=dtype)),
    }

    with MilvusHybridIndex.create("docs", encoder=encoder, uri=folder / "quality.db", codec="int8") as lite:
        lite.upsert(documents, embeddings)
        runs |= {f"m3-mini {name}": run for name, run in five_rows(lite, dataset, candidates).items()}
    exact = InMemoryHybridIndex(encoder=encoder, codec=None)
    exact.upsert(documents, embeddings)
    runs |= {f"brute force {name}": run for name, run in five_rows(exact, dataset, len(documents)).items()}

    plain = InMemoryHybridIndex(encoder=untrained(encoder, folder / "untrained"), codec=None)
    plain.upsert(documents)
    return runs | {f"untrained {name}": run for name, run in five_rows(plain, dataset, len(documents)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, nargs="+", help="folders in the BEIR layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--candidates", type=int, default=200, help="per head, through Milvus")
    parser.add_argument("--dtype", default="auto", help="precision of the encoder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    figures: dict[str, dict[str, dict[str, float]]] = {}
    per_query: dict[str, list[np.ndarray]] = {}
    for collection in arguments.collections:
        dataset = Dataset.load(collection, arguments.split)
        with tempfile.TemporaryDirectory() as folder:
            for name, run in runs_of(dataset, Path(folder), arguments.candidates, arguments.dtype).items():
                found = measure(run, dataset.qrels)
                figures.setdefault(name, {})[collection.name] = {m: value.mean for m, value in found.items()}
                per_query.setdefault(name, []).append(np.array(list(found["nDCG@10"].per_query.values())))
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        return
    table = Table(title="nDCG@10 / R@100")
    for column in ("", *(collection.name for collection in arguments.collections), "mean"):
        table.add_column(column, justify="right" if column else "left")
    for name, by_collection in figures.items():
        cells = [(found["nDCG@10"], found["R@100"]) for found in by_collection.values()]
        means = tuple(float(np.mean(column)) for column in zip(*cells, strict=True))
        table.add_row(name, *(f"{ndcg:.4f} / {recall:.4f}" for ndcg, recall in [*cells, means]))
    Console(width=120).print(table)
    for ours, theirs in COMPARED:
        pairs = zip(per_query[ours], per_query[theirs], strict=True)
        found = bootstrap_interval([100 * (a - b)[None] for a, b in pairs])
        print(f"{ours} against {theirs}: {found.mean:+.2f} points, 95% interval [{found.low:+.2f}, {found.high:+.2f}]")


if __name__ == "__main__":
    main()
