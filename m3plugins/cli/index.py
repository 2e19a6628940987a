"""`m3 index`: documents into an engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from m3plugins.cli.inputs import Source, source
from m3plugins.cli.options import Collection, EngineName, Json, Model, Uri, find_engine, load_encoder, opened
from m3plugins.retrieval.corpus import Rejected
from m3plugins.retrieval.document import Document
from m3plugins.retrieval.index import HybridIndex, UpsertReport

_LISTED = 10


def index(
    path: Annotated[Path, typer.Argument(help="A BEIR folder, a .jsonl or .csv file, or a folder of .txt and .md.")],
    engine: EngineName = "milvus",
    uri: Uri = "m3.db",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    as_json: Json = False,
) -> int:
    """Index documents; what is there already and unchanged is not encoded again.

    JSON lines: {"_id": …, "text": …, "title": …, "metadata": {…}}, other keys join the metadata. CSV: a header with
    id and text. Folders of text: the relative path is the id.
    """
    documents, kind, started = source(path), find_engine(engine), time.monotonic()
    with opened(kind, collection, uri, load_encoder(model), create=True) as opened_index:
        report, rejected = ingest(opened_index, documents, Console(stderr=True))
        total = opened_index.count()
    seconds = time.monotonic() - started
    failed = [{"place": item.place, "reason": item.reason} for item in rejected]
    failed += [{"place": item.id, "reason": item.reason} for item in report.failed]
    summary = {
        "written": report.written,
        "unchanged": report.unchanged,
        "failed": failed,
        "truncated": report.truncated,
        "documents": total,
        "seconds": round(seconds, 2),
        "documents_per_second": round(report.written / seconds, 1),
    }
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        _show(summary, f"{collection} at {uri}")
    return 1 if failed else 0


def ingest(index: HybridIndex, documents: Source, console: Console) -> tuple[UpsertReport, list[Rejected]]:
    """Streams the source into the index under a progress bar."""
    rejected: list[Rejected] = []
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("indexing", total=documents.count())

        def accepted() -> Iterator[Document]:
            for item in documents.read():
                if isinstance(item, Document):
                    yield item
                else:
                    rejected.append(item)
                    progress.advance(task)

        report = index.upsert(accepted(), on_ack=lambda ids: progress.advance(task, len(ids)))
    return report, rejected


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Any) -> Any:
        self.text_format = f"{task.speed or 0:.0f} docs/s"
        return super().render(task)


def _show(summary: dict[str, Any], where: str) -> None:
    console, failed = Console(highlight=False), summary["failed"]
    rate = f"{summary['seconds']} s, {summary['documents_per_second']} docs/s"
    console.print(
        f"{where}: {summary['written']} written, {summary['unchanged']} unchanged, {len(failed)} failed ({rate}); "
        f"{summary['documents']} documents in all",
        soft_wrap=True,
        markup=False,
    )
