"""`m3 evaluate`: nDCG@10 and R@100 of each head and of their sums, on a BEIR collection."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from m3plugins.cli.index import ingest, report_failed
from m3plugins.cli.inputs import source
from m3plugins.cli.options import Dtype, Json, Model, Token, Uri, calls, find_engine, load_encoder, opened
from m3plugins.cli.printing import complain, print_json, say

_LONGEST = 128


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder with corpus.jsonl, queries.jsonl and qrels/.")],
    model: Model = "m3-mini",
    split: Annotated[str, typer.Option(help="The qrels to judge by: test, dev or train.")] = "test",
    engine: Annotated[str, typer.Option(help="Index into this engine first, not in memory.")] = "",
    uri: Uri = "",
    collection: Annotated[str, typer.Option(help="Name of the index; by default one for the collection.")] = "",
    candidates: Annotated[int, typer.Option(min=1, help="Documents that dense and sparse propose each.")] = 200,
    keep_identical: Annotated[
        bool,
        typer.Option(
            "--keep-identical-ids",
            help="Keep the document that has the query's own id, which is left out as BEIR does; for a collection "
            "that numbers queries and documents alike.",
        ),
    ] = False,
    token: Token = "",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Measure dense, sparse, multi-vector, dense + sparse and all three on a collection with judgements.

    An index with passages is measured by documents: each ranks where its best passage does.
    """
    from m3plugins.evaluation import Dataset
    from m3plugins.evaluation import evaluate as run
    from m3plugins.indexing.in_memory import InMemoryHybridIndex
    from m3plugins.indexing.named_index import NamedIndex

    with calls(FileNotFoundError):
        dataset = Dataset.load(folder, split)
    kind = find_engine(engine) if engine else None
    name = collection or own_name(folder)
    encoder = load_encoder(model, dtype)
    memory = nullcontext(InMemoryHybridIndex(encoder=encoder, codec=None))  # the model is measured, not a codec
    with opened(kind, name, uri or kind.default_uri, encoder, token=token, create=True) if kind else memory as index:
        done = ingest(index, source(folder, follow_symlinks=True))  # as the dataset is read
        documents = index.describe().documents if isinstance(index, NamedIndex) else index.count()
        result = run(
            index,
            dataset,
            candidates=candidates,
            ignore_identical_ids=not keep_identical,
            progress=sys.stderr.isatty(),
        )
    foreign = documents > done.written + done.unchanged
    if foreign:
        complain(f"{name} holds {documents} documents, not these alone; name another --collection")
    if result.identical_ids:
        complain(
            f"{result.identical_ids} of {result.queries} queries found a document of their own id, which is left "
            "out as BEIR does; --keep-identical-ids keeps it"
        )
    report_failed(done.failed)
    means = result.means()
    if as_json:
        about = {"collection": str(folder), "split": split, "model": model, "engine": engine or "memory"}
        counts = {"documents": documents, "queries": result.queries, "candidates": candidates}
        counts["identical_ids"] = result.identical_ids
        print_json({**about, **counts, "measures": means, "failed": len(done.failed)})
    else:
        say(f"{folder.name} ({split}): {result.queries} queries, {documents} documents, {model}")
        table = Table(box=None, pad_edge=False)
        for column in ("", *next(iter(means.values()))):
            table.add_column(column, justify="right" if column else "left")
        for row, values in means.items():
            table.add_row(row, *(f"{value:.4f}" for value in values.values()))
        Console().print(table)
    return 1 if done.failed or foreign else 0


def own_name(folder: Path) -> str:
    """A name for the folder's index that every engine takes.

    Example:
        >>> own_name(Path("/data/BEIR (v1.0)"))
        'evaluate_beir__v1_0_'
    """
    return "evaluate_" + re.sub(r"[^a-z0-9]", "_", folder.resolve().name.lower())[:_LONGEST]
