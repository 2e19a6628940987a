"""`m3 search`: one query, its hits, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3plugins.cli.errors import CallError
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
from m3plugins.encoding.output import HEADS
from m3plugins.retrieval.agreement import Agreement, agreement
from m3plugins.retrieval.document import Document, Hit
from m3plugins.retrieval.explanation import Explanation, explain
from m3plugins.retrieval.filters import Filter, from_dict
from m3plugins.retrieval.retriever import HybridRetriever

_PLAIN_WIDTH = 120
_SNIPPET = 160
_TOKENS = 6


def search(
    query: Annotated[str, typer.Argument(help="The question.")],
    engine: EngineName = "milvus",
    uri: Uri = "",
    collection: Collection = "docs",
    model: Model = "m3-mini",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Annotated[str, typer.Option("--filter", help='On metadata, as JSON: {"eq": {"lang": "en"}}.')] = "",
    offset: Annotated[int, typer.Option(min=0, help="How many of the best to pass over.")] = 0,
    per_parent: Annotated[int, typer.Option(min=0, help="At most this many passages of one document; 0: all.")] = 0,
    why: Annotated[bool, typer.Option("--explain", help="Show what the scores are made of.")] = False,
    token: Token = "",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> int:
    """Search with all three heads: 1 / 0.3 / 1 on dense, sparse and multi-vector scores."""
    kind, wanted = find_engine(engine), _parse_filter(where)
    with opened(kind, collection, uri or kind.default_uri, load_encoder(model, dtype), token=token) as index:
        retriever = HybridRetriever(index)
        embedded = index.encoder.encode_queries([query])
        hits = retriever.search_embedded(
            query, embedded, k, filter=wanted, offset=offset, per_parent=per_parent or None
        )
        heads, first_choices, explanations = None, {}, {}
        if why:
            explanations = {hit.id: explain(query, hit, index=index, embedding=embedded) for hit in hits}
            heads = agreement(index, embedded, candidates=max(retriever.candidates, offset + k), filter=wanted)
            first_choices = {found.id: found for found in index.get(list(heads.first_choices.values()))}
    if as_json:
        typer.echo(json.dumps(_as_json(query, hits, heads, explanations), ensure_ascii=False))
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    console.print(_hits_table(hits, heads, explanations) if hits else "nothing found")
    if heads and hits:
        console.print(_heads_table(hits, heads, first_choices))
    return 0


def _parse_filter(where: str) -> Filter | None:
    try:
        return from_dict(json.loads(where)) if where else None
    except ValueError as err:
        msg = f"--filter: {err}"
        raise CallError(msg) from err


def _as_json(
    query: str, hits: Sequence[Hit], heads: Agreement | None, explanations: Mapping[str, Explanation]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "id": hit.id,
            "score": hit.score,
            "scores": {head: getattr(hit.scores, head) for head in HEADS},
            "title": hit.document.title,
            "parent_id": hit.document.parent_id,
            "text": hit.text,
            "metadata": dict(hit.metadata),
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    if heads is None:
        return {"query": query, "hits": rows}
    for row, hit in zip(rows, hits, strict=True):
        explanation = explanations[hit.id]
        row["ranks"] = {head: heads.ranks[head].get(hit.id) for head in HEADS}
        row["contributions"] = explanation.contributions
        row["shared_tokens"] = [asdict(match) for match in explanation.sparse]
        row["nearest_tokens"] = [asdict(match) for match in explanation.multi_vector]
    overlap = {head: heads.overlap(head, hits) for head in HEADS}
    summary = {"union": heads.union, "first_choices": heads.first_choices, "overlap": overlap}
    return {"query": query, "hits": rows, "heads": summary}


def _hits_table(hits: Sequence[Hit], heads: Agreement | None, explanations: Mapping[str, Explanation]) -> Table:
    """A hit a row; explained, each head's score with its rank within the union, and what the scores are made of."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for head in HEADS if heads else ():
        table.add_column(f"{head} (rank)", justify="right", no_wrap=True)
    table.add_column("document", ratio=1)
    for position, hit in enumerate(hits, start=1):
        cells = [str(position), f"{hit.score:.3f}"]
        body = _describe(hit.document)
        if heads:
            for head in HEADS:
                cells.append(f"{getattr(hit.scores, head):.3f} {_ordinal(heads.ranks[head].get(hit.id))}")
            body.append(_reasons(explanations[hit.id]), style="green")
        table.add_row(*map(Text, cells), body)
    return table


def _reasons(explanation: Explanation) -> str:
    """A line a kind: what the heads add to the score, the tokens that add most to the sparse and multi-vector ones."""
    summands = " + ".join(f"{head} {value:.3f}" for head, value in explanation.contributions.items())
    shared = [f"{_printable(match.token)} {match.contribution:.3f}" for match in explanation.sparse[:_TOKENS]]
    strongest = sorted(explanation.multi_vector, key=lambda match: -match.similarity)[:_TOKENS]
    nearest = [f"{_printable(m.query)}~{_printable(m.document)} {m.similarity:.3f}" for m in strongest]
    return f"\n= {summands}\nshared: {'  '.join(shared) or 'no token'}\nnearest: {'  '.join(nearest)}"


def _heads_table(hits: Sequence[Hit], heads: Agreement, documents: dict[str, Document]) -> Table:
    """A head a row: how far it agrees with the hits, and what it would have put first."""
    final = {hit.id: rank for rank, hit in enumerate(hits, start=1)}
    title = f"{heads.union} candidates; each head's first choice, and its rank by the others"
    table = Table(title=f"\n{title}", title_justify="left", box=None, pad_edge=False, expand=True)
    for column in ("head", f"of the {len(hits)} hits", *HEADS, "final"):
        table.add_column(column, justify="left" if column == "head" else "right", no_wrap=True)
    table.add_column("first choice", ratio=1, no_wrap=True, overflow="ellipsis")
    for head, i in heads.first_choices.items():
        ranks = [_ordinal(heads.ranks[other].get(i)) for other in HEADS]
        cells = [head, str(heads.overlap(head, hits)), *ranks, _ordinal(final.get(i))]
        table.add_row(*map(Text, cells), _describe(documents[i]) if i in documents else Text(i))
    return table


def _describe(document: Document) -> Text:
    """Id, title and the beginning of the text, on one line and with nothing that a terminal would obey."""
    title = "" if document.title == document.id else document.title
    snippet = f"{title}: {document.text}" if title else document.text
    line = Text(_printable(document.id), style="bold")
    return line.append(" " + _printable(snippet)[:_SNIPPET], style="not bold")


def _printable(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _ordinal(rank: int | None) -> str:
    return "(–)" if rank is None else f"({rank})"
