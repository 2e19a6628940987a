"""What an attached index answers by reading rows: documents, embeddings, exact scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from m3plugins import Document, HeadScores, M3Encoder, M3Output
from m3plugins.encoding.output import HEADS, Head
from m3plugins.scoring.heads import check_query, head_scores
from m3plugins_milvus.attached.computed import ComputedHeads
from m3plugins_milvus.attached.fields import Layout
from m3plugins_milvus.attached.rows import to_document, to_output
from m3plugins_milvus.attached.table import Table
from m3plugins_milvus.filters import Plan

DOCUMENTS_PER_SCORE = 32


def unstored(layout: Layout) -> list[Head]:
    """The heads that the collection does not store."""
    return [head for head in HEADS if head not in layout.indexes]


def scan(table: Table, plan: Plan) -> Iterator[Document]:
    """Every document that matches."""
    for rows in table.matching(plan, table.layout.document):
        for row in rows.values():
            yield to_document(row, table.layout)


def scan_embeddings(table: Table, plan: Plan, encoder: M3Encoder) -> Iterator[tuple[Document, M3Output]]:
    """Every document that matches, with all heads."""
    layout = table.layout
    for rows in table.matching(plan, [*layout.document, *layout.fields.heads.values()]):
        documents = [to_document(row, layout) for row in rows.values()]
        outputs = encoder.iter_documents((document.content for document in documents), heads=unstored(layout))
        computed = (row for output in outputs for row in output)
        for document, row, output in zip(documents, rows.values(), computed, strict=True):
            yield document, _joined(to_output([row], layout, encoder.vocab_size), output)


def embeddings(table: Table, computed: ComputedHeads, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
    """The embeddings, in the order of `ids`."""
    found = _find(table, computed, ids, heads)
    return {i: row for some, output in found for i, row in zip(some, output.select(heads), strict=True)}


def score(table: Table, computed: ComputedHeads, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
    """Exact scores on the query's heads, in the order of `ids`."""
    scores: dict[str, HeadScores] = {}
    for some, output in _find(table, computed, ids, query.heads):
        scores |= dict(zip(some, head_scores(query, output), strict=True))
    return scores


def check_asked(query: M3Output, text: str | None) -> None:
    """Refuses what cannot be searched for.

    Raises:
        ValueError: If the query is not of length 1, not finite, or comes with its text.
    """
    check_query(query)
    if text is not None:
        msg = "this collection has no BM25 signal, it is attached; leave the weight of bm25 at 0"
        raise ValueError(msg)


def _find(
    table: Table, computed: ComputedHeads, ids: Sequence[str], heads: Sequence[Head]
) -> Iterator[tuple[list[str], M3Output]]:
    """Those of the ids that are there, some at a time, with these heads of theirs (and others)."""
    layout = table.layout
    stored = [layout.fields.heads[head] for head in heads if head in layout.indexes]
    compute = len(stored) < len(heads)
    rows = table.fetch(ids, [*stored, *(layout.document if compute else [])])
    known = [i for i in ids if i in rows]
    for start in range(0, len(known), DOCUMENTS_PER_SCORE):
        some = known[start : start + DOCUMENTS_PER_SCORE]
        output = to_output([rows[i] for i in some], layout, computed.encoder.vocab_size)
        if compute:
            output = _joined(output, computed.of([to_document(rows[i], layout).content for i in some]))
        yield some, output


def _joined(stored: M3Output, computed: M3Output) -> M3Output:
    return replace(
        computed,
        dense=computed.dense if stored.dense is None else stored.dense,
        sparse=computed.sparse if stored.sparse is None else stored.sparse,
    )
