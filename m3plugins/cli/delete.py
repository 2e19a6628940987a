"""`m3 delete`: documents of an index, or the index."""

from __future__ import annotations

from typing import Annotated

import typer

from m3plugins.cli.conditions import parse_filter
from m3plugins.cli.errors import CallError
from m3plugins.cli.options import (
    Collection,
    EngineName,
    Json,
    Token,
    Uri,
    Where,
    find_engine,
    load_encoder,
    opened,
    without_credentials,
)
from m3plugins.cli.printing import print_json, say
from m3plugins.retrieval.engines import Engine


def delete(
    ids: Annotated[list[str] | None, typer.Argument(help="Of documents.", metavar="[ID]...")] = None,
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Annotated[str, typer.Option(show_default=False, help="The index's model; by default the one it names.")] = "",
    token: Token = "",
    where: Where = None,
    everything: Annotated[bool, typer.Option("--all", help="Every document; the index stays.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="The index with all in it; needs no model.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, of --filter, --all and --drop.")] = False,
    as_json: Json = False,
) -> int:
    """Delete documents by id or by filter, all of them, or the index.

    An id of an index with passages is that of a document: its passages go with it.

    Examples:

      m3 delete manual.md faq.md

      m3 delete --filter 'year<2010' --dry-run

      m3 delete --collection old --drop --yes
    """
    ways = {"ids": bool(ids), "--filter": bool(where), "--all": everything, "--drop": drop}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) != 1:
        msg = f"say what to delete, by one of {', '.join(ways)}; got {' and '.join(chosen) or 'none'}"
        raise CallError(msg)
    kind, wanted = find_engine(engine), parse_filter(where or [])
    uri = uri or kind.default_uri
    place = f"{collection} at {without_credentials(uri)}"
    if drop:
        held = kind.describe_index(collection, uri=uri, token=token or None)
        count = held.documents
        if not dry_run:
            _confirm(f"the index {place} and its {count} documents", yes=yes)
            kind.drop_index(held.name, uri=uri, token=token or None)
    else:
        encoder = load_encoder(model or _model(kind, collection, uri, token))
        with opened(kind, collection, uri, encoder, token=token) as index:
            unit = "documents" if index.passages is None else "passages"
            if ids:
                count = len(index.get(ids))
