"""Hits as `m3 search` shows them: a table for people, an object for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3plugins.cli.printing import printable
from m3plugins.cli.snippets import Snippet
from m3plugins.encoding.output import HEADS
from m3plugins.indexing.corpus import shortened
from m3plugins.indexing.document import Document
from m3plugins.retrieval.agreement import Agreement
from m3plugins.retrieval.explanation import Explanation
from m3plugins.retrieval.hit import Hit
from m3plugins.scoring.heads import SIGNALS

_PLAIN_WIDTH = 120
_TOKENS = 6
_NAME = 500
_MATCH = "bold yellow"


@dataclass(frozen=True)
class Found:
    """The results of a search.

    Attributes:
        query: The question.
        hits: The documents, best first.
        snippets: The part of each document that matches, by id.
        explanations: The parts of each score, by id; empty unless asked for.
        heads: The agreement of the heads, if it was asked for.
        first_choices: The documents that a head puts first, by id.
    """

    query: str
    hits: Sequence[Hit]
    snippets: Mapping[str, Snippet]
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    heads: Agreement | None = None
    first_choices: Mapping[str, Document] = field(default_factory=dict)


def as_object(found: Found) -> dict[str, Any]:
    """Converts hits to one JSON object."""
    rows = [_row(rank, hit, found) for rank, hit in enumerate(found.hits, start=1)]
    if found.heads is None:
        return {"query": found.query, "hits": rows}
    overlap = {head: found.heads.overlap(head, found.hits) for head in HEADS}
    summary = {"union": found.heads.union, "first_choices": found.heads.first_choices, "overlap": overlap}
    return {"query": found.query, "hits": rows, "heads": summary}


def _row(rank: int, hit: Hit, found: Found) -> dict[str, Any]:
    part = found.snippets[hit.id]
    row = {
        "rank": rank,
        "id": hit.id,
        "score": hit.score,
        "scores": {signal: getattr(hit.scores, signal) for signal in SIGNALS},
        "title": hit.document.title,
        "parent_id": hit.document.parent_id,
        "text": hit.text,
        "snippet": asdict(part),
        "metadata": dict(hit.metadata),
    }
    if found.heads is not None:
        explanation = found.explanations[hit.id]
        row["ranks"] = {head: found.heads.ranks[head].get(hit.id) for head in HEADS}
        row["contributions"] = explanation.contributions
        row["shared_tokens"] = [asdict(match) for match in explanation.sparse]
        row["nearest_tokens"] = [asdict(match) for match in explanation.multi_vector]
    return row


def show(found: Found) -> None:
    """Prints the hits, a row each; explained, the heads below."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    console.print(_hits_table(found) if found.hits else "nothing found")
    if found.heads and found.hits:
        console.print(_heads_table(found, found.heads))


def _hits_table(found: Found) -> Table:
    """Makes a row of each hit; explained, with each head's score, its rank within the union, and its parts."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for head in HEADS if found.heads else ():
        table.add_column(f"{head} (rank)", justify="right", no_wrap=True)
    table.add_column("document", ratio=1)
    for position, hit in enumerate(found.hits, start=1):
        cells = [str(position), f"{hit.score:.3f}"]
        body = Text("\n").join([_place(hit.document), _marked(hit.document, found.snippets[hit.id])])
        if found.heads:
            for head in HEADS:
                score = getattr(hit.scores, head)
                cells.append(f"{'–' if score is None else f'{score:.3f}'} {_ordinal(found.heads.ranks[head], hit.id)}")
            body.append(_reasons(found.explanations[hit.id]), style="green")
        table.add_row(*map(Text, cells), body)
    return table


def _place(document: Document) -> Text:
    """Joins id, path, title and nearest heading, without repeats."""
    said = [document.id, document.parent_id]
    title = document.metadata.get("title") or document.title  # a passage's own title has its heading in it
    for name in (document.metadata.get("path"), title, document.metadata.get("heading")):
        if isinstance(name, str) and name.strip() and name not in said:
            said.append(name)
    line = Text(_name(document.id), style="bold")
    return line.append("".join(f" › {_name(name)}" for name in said[2:] if name), style="not bold cyan")


def _name(text: str) -> str:
    return printable(shortened(text, _NAME))


def _marked(document: Document, part: Snippet) -> Text:
    """Puts a snippet on one line, with its matches set off, and dots where the text goes on."""
    line, position = Text("… " if part.start else ""), part.start
    for start, end in (*part.matches, (part.end, part.end)):
        line.append(_spaced(document.text[position:start]))
        line.append(_spaced(document.text[start:end]), style=_MATCH)
        position = end
    return line.append(" …") if part.end < len(document.text.rstrip()) else line


def _spaced(text: str) -> str:
    """Makes a text printable, with a space at its ends where it has white space."""
    head, tail = text[:1].isspace(), text[-1:].isspace()
    return f"{' ' * head}{printable(text)}{' ' * tail}" if text.strip() else " " * bool(text)


def _reasons(explanation: Explanation) -> str:
    """Explains a score: what each head adds, and the tokens that add most to the sparse and multi-vector ones."""
    summands = " + ".join(f"{head} {value:.3f}" for head, value in explanation.contributions.items())
    shared = [f"{printable(match.token)} {match.contribution:.3f}" for match in explanation.sparse[:_TOKENS]]
    strongest = sorted(explanation.multi_vector, key=lambda match: -match.similarity)[:_TOKENS]
    nearest = [f"{printable(m.query)}~{printable(m.document)} {m.similarity:.3f}" for m in strongest]
    lines = [f"{explanation.weighted:.3f} = {summands}", f"shared: {'  '.join(shared) or 'no token'}"]
    return "\n" + "\n".join([*lines, f"nearest: {'  '.join(nearest)}"] if nearest else lines)


def _heads_table(found: Found, heads: Agreement) -> Table:
    """Makes a row of each head: how far it agrees with the hits, and what it would have put first."""
    final = {hit.id: rank for rank, hit in enumerate(found.hits, start=1)}
    title = f"{heads.union} candidates; each head's first choice, and its rank by the others"
    table = Table(title=f"\n{title}", title_justify="left", box=None, pad_edge=False, expand=True)
    for column in ("head", f"of the {len(found.hits)} hits", *HEADS, "final"):
        table.add_column(column, justify="left" if column == "head" else "right", no_wrap=True)
    table.add_column("first choice", ratio=1, no_wrap=True, overflow="ellipsis")
    for head, i in heads.first_choices.items():
        ranks = [_ordinal(heads.ranks[other], i) for other in HEADS]
        cells = [head, str(heads.overlap(head, found.hits)), *ranks, _ordinal(final, i)]
        first = found.first_choices.get(i)
        table.add_row(*map(Text, cells), Text(_name(i)) if first is None else _place(first))
    return table


def _ordinal(ranks: Mapping[str, int], i: str) -> str:
    return f"({ranks[i]})" if i in ranks else "(–)"
