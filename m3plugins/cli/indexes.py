"""`m3 list` and `m3 info`: describe the indexes of an engine, and one of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from m3plugins.cli.options import Collection, EngineName, Json, Token, Uri, calls, find_engine
from m3plugins.cli.printing import complain, print_json, say

if TYPE_CHECKING:
    from m3plugins.indexing.info import IndexInfo


def list_indexes(
    engine: EngineName = "milvus",
    uri: Uri = "",
    token: Token = "",
    names: Annotated[
        bool, typer.Option("--names", metavar="", help="Print names alone, one a line, without opening any index.")
    ] = False,
    as_json: Json = False,
) -> int:
    """List the indexes that an engine holds; needs no model.

    For example:

      m3 list

      m3 list --engine elasticsearch --uri http://localhost:9200 --json
    """
    kind = find_engine(engine)
    uri = uri or kind.default_uri
    with calls():
        found = kind.list_indexes(uri=uri, token=token or None)
    if names:
        if as_json:
            print_json({"indexes": found})
        for name in () if as_json else found:
            say(name)
        return 0
    infos = []
    for name in found:
        try:
            infos.append(kind.describe_index(name, uri=uri, token=token or None))
        except ValueError as err:
            complain(f"{name}: {err}")
    if as_json:
        print_json({"indexes": [asdict(info) for info in infos]})
    else:
        for info in infos:
            say(f"{info.name}: {contents(info)}, {_model(info)}")
        if not found:
            say(f"no index at {uri}; m3 index makes one")
    return 0 if len(infos) == len(found) else 1


def info(
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    token: Token = "",
    as_json: Json = False,
) -> int:
    """Describe an index and the model that made its vectors; needs no model.

    For example:

      m3 info --uri m3.db --collection docs
    """
    kind = find_engine(engine)
    with calls():
        found = kind.describe_index(collection, uri=uri or kind.default_uri, token=token or None)
    if as_json:
        print_json(asdict(found))
        return 0
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    cut = found.passages
    rows = {
        "index": f"{found.name} ({found.engine}, format {found.format})",
        "aliases": ", ".join(found.aliases),
        "contents": contents(found),
        "passages": cut and f"of {cut.size} tokens, {cut.overlap} of them repeated",
        "model": _model(found),
        "fingerprint": found.fingerprint,
        "read": f"the first {found.document_max_length} tokens of a text; {settings}",
        "vectors": f"dense {found.dim}; token vectors {found.multi_vector_dim}, kept as {found.codec or 'float32'}",
    }
    for name, value in rows.items():
        if value:
            say(f"{name}: {value}")
    return 0


def contents(info: IndexInfo) -> str:
    """Says how many documents an index holds, in how many passages."""
    passages = "" if info.passage_count is None else f" in {info.passage_count} passages"
    return f"{info.documents} documents{passages}"


def _model(info: IndexInfo) -> str:
    return info.model or f"a model of unknown name, {info.fingerprint[:12]}…"
