"""`m3 index`: documents into an engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from m3plugins.cli.errors import CallError
from m3plugins.cli.inputs import Source, source
from m3plugins.cli.options import (
    Collection,
    Dtype,
    EngineName,
    Json,
    Model,
    Token,
    Uri,
    find_engine,
    load_encoder,
    opened,
    without_credentials,
)
from m3plugins.cli.progress import progress
from m3plugins.encoding.passages import Passages
from m3plugins.retrieval.corpus import Rejected
from m3plugins.retrieval.document import Document
from m3plugins.retrieval.index import HybridIndex

_LISTED = 10


@dataclass(frozen=True)
class Ingested:
    """What became of a source; `failed` has what could not be read and what could not be stored."""

    written: int
    unchanged: int
    failed: list[Rejected]
    truncated: int
    documents: int
    seconds: float

    @property
    def rate(self) -> float:
        """Documents written a second."""
        return self.written / self.seconds


def index(
    path: Annotated[Path, typer.Argument(help="A BEIR folder, a .jsonl or .csv file, or a folder of .txt and .md.")],
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    passages: Annotated[
        int, typer.Option(min=0, help="Cut documents into passages of this many tokens, in a new index; 0: do not.")
    ] = 0,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that a passage repeats of the one before.")] = 0,
    token: Token = "",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Index documents; those that are there already, unchanged, are not encoded again.

    JSON lines: {"_id": …, "text": …, "title": …, "metadata": {…}}; other keys join the metadata. CSV: a header that
    names id and text. Folders: the path of a file is its id; hidden folders are left out.
    """
    documents, kind, cut = source(path), find_engine(engine), _passages(passages, overlap)
    uri, encoder = uri or kind.default_uri, load_encoder(model, dtype)
    with opened(kind, collection, uri, encoder, token=token, create=True, passages=cut) as target:
        done = ingest(target, documents)
    if as_json:
        summary = {**asdict(done), "seconds": round(done.seconds, 2), "documents_per_second": round(done.rate, 1)}
        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        typer.echo(
            f"{collection} at {without_credentials(uri)}: {done.written} written, {done.unchanged} unchanged, "
            f"{len(done.failed)} failed in {done.seconds:.1f} s ({done.rate:.0f} docs/s); "
            f"{done.documents} documents in all"
        )
        if done.truncated:
            typer.echo(f"{done.truncated} texts are longer than the model reads: only their beginning can be found")
    report_failed(done.failed)
    return 1 if done.failed else 0


def _passages(size: int, overlap: int) -> Passages | None:
    try:
        return Passages(size, overlap) if size or overlap else None
    except ValueError as err:
        msg = f"--passages and --overlap: {err}"
        raise CallError(msg) from err


def ingest(index: HybridIndex, documents: Source) -> Ingested:
    """Streams a source into an index, under a progress bar if someone is watching stderr."""
    started = time.monotonic()
    rejected: list[Rejected] = []
    with progress("indexing", documents.count) as advance:

        def readable() -> Iterator[Document]:
            for item in documents.read():
                if isinstance(item, Document):
                    yield item
                else:
                    rejected.append(item)
                    advance(1)

        report = index.upsert(readable(), on_ack=lambda ids: advance(len(ids)))
    failed = rejected + [Rejected(failure.id, failure.reason) for failure in report.failed]
    seconds = time.monotonic() - started
    return Ingested(report.written, report.unchanged, failed, report.truncated, index.count(), seconds)


def report_failed(failed: list[Rejected]) -> None:
    """The failures on stderr, the first few of them by name."""
    for item in failed[:_LISTED]:
        typer.echo(f"m3: {item.place}: {item.reason}", err=True)
    if len(failed) > _LISTED:
        typer.echo(f"m3: … and {len(failed) - _LISTED} more; --json lists them all", err=True)
    if failed:
        typer.echo(f"m3: {len(failed)} documents were not indexed; correct them and run this again", err=True)
