"""Options that several verbs share, and the engines, models and indexes that they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3plugins.cli.errors import CallError
from m3plugins.encoding.text import check_unicode

if TYPE_CHECKING:
    from m3plugins.encoding.encoder import M3Encoder
    from m3plugins.encoding.passages import Passages
    from m3plugins.indexing.named_index import NamedIndex
    from m3plugins.indexing.registry import Engine

_INDEX, _MODEL = "Index", "Model"  # panels of `--help`

EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        rich_help_panel=_INDEX,
        help="The engine that holds the index; `m3 doctor` lists the engines.",
    ),
]
Uri = Annotated[
    str,
    typer.Option(
        show_default=False,
        metavar="ADDRESS",
        rich_help_panel=_INDEX,
        help="The engine's address: a path for Milvus Lite (by default m3.db), or a server's URL (by default, for "
        "Elasticsearch, http://localhost:9200).",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        envvar="M3_TOKEN",
        show_default=False,
        metavar="KEY",
        rich_help_panel=_INDEX,
        help="The server's API key, or user:password; the variable is safer.",
    ),
]


def _named(name: str) -> str:
    with calls():
        check_unicode("the name of an index", name)
    return name


Collection = Annotated[
    str, typer.Option(metavar="NAME", callback=_named, rich_help_panel=_INDEX, help="Name of the index.")
]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        rich_help_panel=_MODEL,
        help="A hub id (BAAI/bge-m3), a checkpoint folder, a service's URL, or m3-mini (English).",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        rich_help_panel=_MODEL,
        help="Precision of the model: auto (float32), float32, bfloat16 or float16.",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="CONDITIONS",
        help="Take documents whose metadata match 'year>=2020,lang!=en', or JSON; given several times, all must hold.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object and nothing else on stdout.")]


def find_engine(name: str) -> Engine:
    """Finds an engine by name; an unknown one is a wrong call."""
    from m3plugins.indexing.registry import load_engine

    try:
        return load_engine(name)
    except ValueError as err:
        raise CallError(str(err)) from err


@contextmanager
def calls(*others: type[Exception]) -> Iterator[None]:
    """Turns a `ValueError`, or an error of the other kinds, into that of a wrong call."""
    kinds: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except kinds as err:
        raise CallError(str(err)) from err


def load_encoder(
    model: str, dtype: str = "auto", *, document_max_length: int | None = None, weights: bool = True
) -> M3Encoder:
    """Opens an encoder, with its weights unless told; an unknown model or precision is a wrong call."""
    from m3plugins.encoding.encoder import M3Encoder

    with calls(FileNotFoundError):
        encoder = M3Encoder.from_pretrained(model, dtype=dtype, document_max_length=document_max_length)  # type: ignore[arg-type]
        if weights:
            return encoder.warm_up()
        encoder.check()
        return encoder


@contextmanager
def opened(
    engine: Engine,
    collection: str,
    uri: str,
    encoder: M3Encoder,
    *,
    token: str = "",
    create: bool = False,
    codec: str | None = None,
    passages: Passages | None = None,
) -> Iterator[NamedIndex]:
    """Opens an index and closes it at the end; with `create`, makes one of this codec and these passages if need be."""
    where: dict[str, Any] = {"encoder": encoder, "uri": uri, "token": token or None}
    with calls():
        if create:
            index = engine.open_or_create(collection, **where, codec=codec, passages=passages)
        else:
            index = engine.open(collection, **where)
    try:
        yield index
    finally:
        index.close()
