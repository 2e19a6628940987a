"""`m3 delete`: deletes documents of an index, or the index."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

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
    calls,
    find_engine,
    load_encoder,
    opened,
)
from m3plugins.cli.printing import complain, message, print_json, say
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.filters import and_

if TYPE_CHECKING:
    from m3plugins.encoding.encoder import M3Encoder
    from m3plugins.indexing.index import HybridIndex
    from m3plugins.indexing.info import IndexInfo


def delete(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of the documents to delete.", metavar="ID")] = None,
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Annotated[
        str,
        typer.Option(
            show_default=False,
            metavar="MODEL",
            rich_help_panel="Model",
            help="The model that made the index; by default the one that the index names.",
        ),
    ] = "",
    token: Token = "",
    where: Where = None,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="Delete all documents, not the index.")] = False,
    drop: Annotated[bool, typer.Option("--drop", metavar="", help="Delete the index itself; needs no model.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say how many documents it would be, and delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask before --all and --drop.")] = False,
    as_json: Json = False,
) -> int:
    """Delete documents by id or by filter, all of them, or the index.

    In an index with passages an id is that of a document: its passages go with it.

    For example:

      m3 delete manual.md faq.md

      m3 delete --filter 'year<2010' --dry-run

      m3 delete --collection old --drop --yes
    """
    ways = {"ids": bool(ids), "--filter": bool(where), "--all": everything, "--drop": drop}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) != 1:
        msg = f"say what to delete, by one of {', '.join(ways)}; got {' and '.join(chosen) or 'none of them'}"
        raise CallError(msg)
    wanted = and_() if everything else parse_filter(where or [])
    kind = find_engine(engine)
    uri = uri or kind.default_uri
    with calls():
        held = kind.describe_index(collection, uri=uri, token=token or None)
    if (everything or drop) and not dry_run and not yes:
        _confirm(f"{held.documents} documents of {collection} at {uri}")
    missing: list[str] = []
    documents: int | None = held.documents
    stored = held.passage_count
    if drop:
        if not dry_run:
            with calls():
                kind.drop_index(collection, uri=uri, token=token or None)
    else:
        with opened(kind, collection, uri, _encoder(model, held), token=token) as index, calls():
            if wanted is None:
                owners = _owners(index, ids or [])
                missing = [i for i in dict.fromkeys(ids or []) if i not in set(owners.values())]
                documents, stored = len(set(owners.values())), len(owners)
            else:
                documents, stored = held.documents if everything else None, index.count(wanted)
            if not dry_run:
                stored = index.delete(ids or None, wanted)
            if held.passages is None:
                documents, stored = stored, None
    _tell(
        Deleted(documents, stored, missing, dropped=drop, dry_run=dry_run),
        f"{collection} at {uri}",
        as_json=as_json,
    )
    return 1 if missing else 0


@dataclass(frozen=True)
class Deleted:
    """The result of deleting, or of a dry run.

    Attributes:
        documents: Number of documents; None of passages that a filter chose.
        passages: Number of passages; None of an index without them.
        missing: Ids without a document.
        dropped: Whether the index itself was deleted.
        dry_run: Whether nothing was really deleted.
    """

    documents: int | None
    passages: int | None
    missing: list[str]
    dropped: bool
    dry_run: bool


def _owners(index: HybridIndex, ids: list[str]) -> dict[str, str]:
    """Finds the stored ids that belong to documents, each with the document's."""
    if index.passages is None:
        try:
            return {document.id: document.id for document in index.get(ids)}
        except BrokenDocumentsError:
            return {i: i for i in ids if _is_stored(index, i)}
    return index.writer.passages_of(ids)


def _is_stored(index: HybridIndex, id: str) -> bool:
    """Whether there is a document of this id; one that cannot be read is there to be deleted, too."""
    try:
        return bool(index.get([id]))
    except BrokenDocumentsError:
        return True


def _encoder(model: str, held: IndexInfo) -> M3Encoder:
    """Opens the index's model without its weights: deleting needs only its name and its hash."""
    if not (model or held.model):
        msg = f"the index {held.name!r} does not say by which model it was made; name it by --model"
        raise CallError(msg)
    try:
        return load_encoder(model or held.model, weights=False)
    except CallError as err:
        if model:
            raise
        msg = f"the index {held.name!r} was made by {held.model!r}; say by --model where that is: {err}"
        raise CallError(msg) from err


def _confirm(what: str) -> None:
    if not sys.stdin.isatty():
        msg = f"this would delete {what}; say --yes if that is meant, or --dry-run"
        raise CallError(msg)
    if not typer.confirm(message(f"Delete {what}?"), err=True):
        msg = "nothing was deleted"
        raise CallError(msg)


def _tell(deleted: Deleted, place: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(deleted))
    else:
        counts = {"documents": deleted.documents, "passages": deleted.passages}
        told = ", ".join(f"{count} {unit}" for unit, count in counts.items() if count is not None)
        verb = "would be deleted" if deleted.dry_run else "deleted"
        say(f"{place}: {told} {verb}{', and the index' if deleted.dropped else ''}")
    for i in deleted.missing:
        complain(f"there is no document {i!r}")
