"""`m3 index`: stores documents in an engine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from m3plugins.cli.errors import CallError
from m3plugins.cli.indexes import contents
from m3plugins.cli.inputs import Source, counted, source
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
)
from m3plugins.cli.printing import complain, print_json, say
from m3plugins.cli.progress import progress
from m3plugins.cli.pruning import check_prunable, prune
from m3plugins.cli.seen import Seen
from m3plugins.compression import CODECS
from m3plugins.encoding.passages import Passages, check_packages
from m3plugins.indexing.corpus import Rejected
from m3plugins.indexing.document import Document
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.info import IndexInfo

_LISTED = 10


@dataclass(frozen=True)
class Ingested:
    """The result of indexing a source.

    Attributes:
        written: Documents encoded, or given new metadata, and stored.
        unchanged: Documents that were there already.
        failed: Places that could not be read, and documents that could not be stored.
        truncated: Texts that are longer than the model reads.
        pruned: Documents that were removed, since the source has them no more; None if that was not asked for.
        skipped: Files that were passed over, by ending.
        seconds: Time taken.
    """

    written: int
    unchanged: int
    failed: list[Rejected]
    truncated: int
    pruned: int | None
    skipped: Mapping[str, int]
    seconds: float

    @property
    def rate(self) -> float:
        """Computes the documents written a second."""
        return self.written / self.seconds


def index(
    path: Annotated[Path, typer.Argument(help="A BEIR folder, a .jsonl or .csv file, or a folder of texts.")],
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    codec: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="Codec for a new index's token vectors: binary, int8 or float16; default: the engine's.",
        ),
    ] = "",
    passages: Annotated[
        int,
        typer.Option(min=0, help="Tokens of the passages of a new index; 0 leaves documents whole."),
    ] = 0,
    follow_symlinks: Annotated[
        bool,
        typer.Option("--follow-symlinks", help="Follow links in a folder, wherever they lead, and do not skip them."),
    ] = False,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that a passage repeats of the one before it.")] = 0,
    pruning: Annotated[
        bool,
        typer.Option("--prune", help="After indexing, remove documents that are no longer in PATH (see above)."),
    ] = False,
    token: Token = "",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Index documents; those that are there already, unchanged, are not encoded again.

    JSON lines: {"_id": …, "text": …, "title": …, "metadata": {…}}; other keys join the metadata. CSV: a header that
    names id and text. Of two documents of one id the second fails.

    Folders: .txt, .md, .html and .rst, not hidden, no links. The path of a file is its id; its metadata are path,
    folder, source (PATH itself) and title; a passage's have the heading above it, too.

    --prune removes, of a folder, the documents that its files put there and that are gone; of a .jsonl or .csv, which
    must then be all that is indexed in the collection but for folders, each document that is not in it.
    """
    documents = source(path, follow_symlinks=follow_symlinks)
    kind, cut = find_engine(engine), _passages(passages, overlap)
    check_codec(codec)
    if pruning:
        check_prunable(path, documents)
    if documents.wanting:
        complain(
            f"{counted(documents.wanting)} will be skipped for want of a package; "
            'pip install "m3plugins[loaders]" and run this again'
        )
    uri, encoder = uri or kind.default_uri, load_encoder(model, dtype)
    with opened(kind, collection, uri, encoder, token=token, create=True, codec=codec or None, passages=cut) as target:
        done = ingest(target, documents, pruning=pruning)
        info = target.describe()
    if as_json:
        held = {"documents": info.documents, "passages": info.passage_count}
        speed = {"seconds": round(done.seconds, 2), "documents_per_second": round(done.rate, 1)}
        print_json({**asdict(done), **held, **speed})
    else:
        _tell(done, info, f"{collection} at {uri}")
    report_failed(done.failed)
    if pruning and done.pruned is None:
        complain("nothing was pruned, since not all of the source could be read and stored, or it has no documents")
        return 1
    return 1 if done.failed else 0


def check_codec(codec: str) -> None:
    """Refuses an unknown --codec; "" is none."""
    if codec and codec not in CODECS:
        msg = f"--codec must be one of {', '.join(CODECS)}, got {codec!r}"
        raise CallError(msg)


def _tell(done: Ingested, info: IndexInfo, where: str) -> None:
    say(
        f"{where}: {done.written} written, {done.unchanged} unchanged, {len(done.failed)} failed "
        f"in {done.seconds:.1f} s ({done.rate:.0f} docs/s); {contents(info)} in all"
    )
    if done.pruned is not None:
        say(f"pruned {done.pruned} documents that are gone from the source")
    if done.skipped:
        say(f"skipped {sum(done.skipped.values())}: {counted(done.skipped)}")
    if done.truncated and info.passages is None:
        say(
            f"{done.truncated} texts are longer than the model reads: only their beginning can be found; "
            "index them again with --passages 200 and another --collection"
        )
    elif done.truncated:
        say(f"{done.truncated} passages are longer, with their titles, than the model reads; take smaller --passages")


def _passages(size: int, overlap: int) -> Passages | None:
    try:
        cut = Passages(size, overlap) if size or overlap else None
    except ValueError as err:
        msg = f"--passages and --overlap: {err}"
        raise CallError(msg) from err
    if cut is not None:
        check_packages()
    return cut


def ingest(index: HybridIndex, documents: Source, *, pruning: bool = False) -> Ingested:
    """Streams a source into an index, under a progress bar if stderr is a terminal."""
    started = time.monotonic()
    rejected: list[Rejected] = []
    with Seen() as seen:
        with progress("indexing", documents.count) as advance:

            def readable() -> Iterator[Document]:
                for item in documents.read():
                    if isinstance(item, Document):
                        if pruning:
                            seen.add(item.id)
                        yield item
                    else:
                        rejected.append(item)
                        advance(1)

            report = index.upsert(readable(), on_ack=lambda ids: advance(len(ids)))
        failed = rejected + [Rejected(failure.id, failure.reason) for failure in report.failed]
        pruned = prune(index, seen, documents.folder) if pruning and not failed and len(seen) else None
    return Ingested(
        written=report.written,
        unchanged=report.unchanged,
        failed=failed,
        truncated=report.truncated,
        pruned=pruned,
        skipped=dict(documents.skipped),
        seconds=time.monotonic() - started,
    )


def report_failed(failed: list[Rejected]) -> None:
    """Prints the failures on stderr, the first few of them by name."""
    for item in failed[:_LISTED]:
        complain(f"{item.place}: {item.reason}")
    if len(failed) > _LISTED:
        complain(f"… and {len(failed) - _LISTED} more; --json lists them all")
    if failed:
        complain(f"{len(failed)} failed; correct what is named and run this again")
