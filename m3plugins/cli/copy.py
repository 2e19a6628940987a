"""`m3 copy`: copies an index into another engine, with its embeddings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Annotated

import typer

from m3plugins.cli.errors import CallError
from m3plugins.cli.index import check_codec, report_failed
from m3plugins.cli.indexes import contents
from m3plugins.cli.options import (
    Collection,
    Dtype,
    EngineName,
    Json,
    Model,
    Token,
    Uri,
    calls,
    find_engine,
    load_encoder,
    opened,
)
from m3plugins.cli.printing import print_json, say
from m3plugins.cli.progress import progress
from m3plugins.indexing.copy import copy as copy_index
from m3plugins.indexing.corpus import Rejected
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins.indexing.named_index import NamedIndex
from m3plugins.indexing.registry import Engine

_SOURCE = "Source"


def copy(
    source: Annotated[
        str, typer.Option("--from", metavar="NAME", rich_help_panel=_SOURCE, help="The engine to copy from.")
    ],
    engine: EngineName,
    source_uri: Annotated[
        str,
        typer.Option(
            "--from-uri",
            metavar="ADDRESS",
            rich_help_panel=_SOURCE,
            show_default=False,
            help="The address of that engine, as --uri.",
        ),
    ] = "",
    uri: Uri = "",
    source_collection: Annotated[
        str,
        typer.Option("--from-collection", metavar="NAME", rich_help_panel=_SOURCE, help="Name of the index to copy."),
    ] = "docs",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    source_token: Annotated[
        str,
        typer.Option(
            "--from-token",
            envvar="M3_FROM_TOKEN",
            metavar="KEY",
            rich_help_panel=_SOURCE,
            show_default=False,
            help="The key of the source, as --token.",
        ),
    ] = "",
    token: Token = "",
    codec: Annotated[
        str,
        typer.Option(
            show_default=False,
            help="Codec for the target's token vectors: binary, int8 or float16; default: the source's.",
        ),
    ] = "",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Copy an index into another engine or collection, and encode nothing; run again, it goes on.

    The target is made if it is not there; one that is there must have the codec that --codec names, or else the
    source's. Both hold the vectors of one model, which --model names.

    For example:

      m3 copy --from milvus --from-uri m3.db --engine elasticsearch --uri http://localhost:9200
    """
    from_kind, to_kind = find_engine(source), find_engine(engine)
    source_uri, uri = source_uri or from_kind.default_uri, uri or to_kind.default_uri
    if (source, source_uri, source_collection) == (engine, uri, collection):
        msg = "the source is the target; name another --engine, --uri or --collection"
        raise CallError(msg)
    check_codec(codec)
    encoder = load_encoder(model, dtype)
    started = time.monotonic()
    with opened(from_kind, source_collection, source_uri, encoder, token=source_token) as origin:
        length = origin.identity.document_max_length
        if length != encoder.document_max_length:
            encoder = load_encoder(model, dtype, document_max_length=length)
        kept = codec or origin.identity.codec or None
        there = _is_there(to_kind, collection, uri, token)
        with (
            opened(
                to_kind, collection, uri, encoder, token=token, create=True, codec=kept, passages=origin.passages
            ) as target,
            progress("copying", origin.count) as advance,
            dropped_if_empty(target, made=not there, wanted=origin.count()),
        ):
            report = copy_index(origin, target, on_ack=lambda ids: advance(len(ids)))
            info = target.describe()
    if as_json:
        print_json({**asdict(report), "documents": info.documents, "passages": info.passage_count})
    else:
        copied = f"{report.written} {'documents' if info.passages is None else 'passages'} copied"
        say(
            f"{collection} at {uri}: {copied}, {report.unchanged} unchanged, "
            f"{len(report.failed)} failed in {time.monotonic() - started:.1f} s; {contents(info)} in all"
        )
    report_failed([Rejected(failure.id, failure.reason) for failure in report.failed])
    return 1 if report.failed else 0


def _is_there(engine: Engine, collection: str, uri: str, token: str) -> bool:
    """Tells whether the target is there before it is copied to."""
    with calls(), suppress(IndexNotFoundError):
        engine.describe_index(collection, uri=uri, token=token or None)
        return True
    return False


@contextmanager
def dropped_if_empty(target: NamedIndex, *, made: bool, wanted: int) -> Iterator[None]:
    """Drops an index that is new, if none of the wanted documents could be written into it."""
    try:
        yield
    finally:
        if made and wanted:
            with suppress(Exception):  # what went wrong before is the error to tell
                if not target.count():
                    target.drop()
