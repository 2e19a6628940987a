"""`m3 search`: searches for one query, and explains its hits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from m3plugins.cli.conditions import parse_filter, parse_weights
from m3plugins.cli.errors import CallError
from m3plugins.cli.options import (
    Collection,
    Dtype,
    EngineName,
    Json,
    Model,
    Token,
    Uri,
    Where,
    calls,
    find_engine,
    load_encoder,
    opened,
)
from m3plugins.cli.printing import print_json
from m3plugins.cli.rendering import Found, as_object, show
from m3plugins.cli.snippets import snippet
from m3plugins.encoding.text import check_unicode
from m3plugins.retrieval.agreement import agreement
from m3plugins.retrieval.explanation import explain
from m3plugins.retrieval.retriever import HybridRetriever

if TYPE_CHECKING:
    from m3plugins.reranking import Reranker

_RANKING = "Ranking"


def search(
    query: Annotated[str, typer.Argument(help="The question.")],
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    token: Token = "",
    dtype: Dtype = "auto",
    where: Where = None,
    k: Annotated[int, typer.Option("-k", min=1, metavar="N", help="Number of hits.")] = 10,
    offset: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the best hits to pass over.")] = 0,
    per_parent: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most passages of one document to show; 0 shows all.")
    ] = 0,
    why: Annotated[bool, typer.Option("--explain", metavar="", help="Show the parts of each score.")] = False,
    weights: Annotated[
        str,
        typer.Option(
            rich_help_panel=_RANKING,
            metavar="WEIGHTS",
            show_default=False,
            help="Weight of each head's score; a head that is not named gets 0. By default "
            "dense=1,sparse=0.3,multi_vector=1.",
        ),
    ] = "",
    fusion: Annotated[
        str,
        typer.Option(
            rich_help_panel=_RANKING, metavar="METHOD", help="Sum the scores (weighted) or the reciprocal ranks (rrf)."
        ),
    ] = "weighted",
    rerank: Annotated[
        str,
        typer.Option(
            rich_help_panel=_RANKING,
            metavar="MODEL",
            show_default=False,
            help="A cross-encoder that reranks the top hits: a hub id (BAAI/bge-reranker-v2-m3) or a folder.",
        ),
    ] = "",
    rerank_depth: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=_RANKING, metavar="N", help="Number of hits that it reads (20)."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Search with all three heads, and show the part of each document that matches.

    For example:

      m3 search "how do I find an item in a sorted list"

      m3 search "red foxes" --filter 'year>=2020,lang!=en' --weights dense=1,sparse=0.3

      m3 search "red foxes" -k 3 --rerank BAAI/bge-reranker-v2-m3 --explain
    """
    if not query.strip():
        msg = "the query is empty; say what to search for"
        raise CallError(msg)
    with calls():
        check_unicode("the query", query)
    kind, wanted, heads = find_engine(engine), parse_filter(where or []), parse_weights(weights)
    reranker = _reranker(rerank, rerank_depth, dtype)
    with opened(kind, collection, uri or kind.default_uri, load_encoder(model, dtype), token=token) as index:
        embedded = index.encoder.encode_queries([query])
        with calls():
            retriever = HybridRetriever(
                index,
                weights=heads,
                fusion=fusion,  # type: ignore[arg-type]
                reranker=reranker,
                rerank_depth=rerank_depth or 20,
            )
            hits = retriever.search_embedded(
                query, embedded, k, filter=wanted, offset=offset, per_parent=per_parent or None
            )
        stored = index.embeddings([hit.id for hit in hits], ("sparse", "multi_vector"))
        snippets = {
            hit.id: snippet(
                query, embedded, hit.document, stored.get(hit.id), encoder=index.encoder, weights=retriever.weights
            )
            for hit in hits
        }
        found = Found(query, hits, snippets)
        if why:
            agreed = agreement(index, embedded, candidates=max(retriever.candidates, offset + k), filter=wanted)
            found = Found(
                query,
                hits,
                snippets,
                {hit.id: explain(query, hit, index=index, weights=heads, embedding=embedded) for hit in hits},
                agreed,
                {first.id: first for first in index.get(list(agreed.first_choices.values()))},
            )
    if as_json:
        print_json(as_object(found))
    else:
        show(found)
    return 0


def _reranker(model: str, depth: int | None, dtype: str) -> Reranker | None:
    """Loads the cross-encoder; one that is not there is a wrong call."""
    if not model:
        if depth is not None:
            msg = f"--rerank-depth {depth} needs --rerank, the model that reads the hits"
            raise CallError(msg)
        return None
    from m3plugins.reranking import CrossEncoderReranker

    with calls(OSError):
        return CrossEncoderReranker(model, dtype=dtype).warm_up()  # type: ignore[arg-type]
