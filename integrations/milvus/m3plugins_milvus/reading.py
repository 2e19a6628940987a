"""What an index answers by reading rows: documents, embeddings, exact scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import Head, M3Output
from m3plugins.indexing.report import FailedDocument
from m3plugins.scoring.heads import HeadScores, head_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins_milvus.blocks import POINTER, join_vectors
from m3plugins_milvus.collection import Row
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.requests import among
from m3plugins_milvus.rows import DOCUMENT, EMBEDDING, to_document, to_output
from m3plugins_milvus.schema import BM25
from m3plugins_milvus.store import DOCUMENTS_PER_READ, LOST, Complete, LostBlocksError, Store, faults, keys_of

DOCUMENTS_PER_SCORE = 32
KEYS_PER_SEARCH = 1000


def matching(store: Store, plan: Plan, fields: Iterable[str]) -> Iterator[dict[str, Row]]:
    """The rows that match, in small groups by key, with the given fields."""
    wanted = list(dict.fromkeys([*fields, "metadata"] if plan.check else fields))
    for page in store.documents.keys(plan.expression):
        for start in range(0, len(page), DOCUMENTS_PER_READ):
            rows = store.documents.fetch(page[start : start + DOCUMENTS_PER_READ], wanted)
            yield {key: row for key, row in rows.items() if plan.accepts(row.get("metadata", {}))}


def scan(store: Store, plan: Plan) -> Iterator[Document]:
    """Every document that matches; those that cannot be read are an error at the end."""
    for done in _scanned(store, plan, DOCUMENT, vectors=False):
        yield to_document(done.row, done.text)


def scan_embeddings(store: Store, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
    """Every document that matches, with its embeddings as they are stored; what cannot be read as in `scan`."""
    broken: list[FailedDocument] = []
    try:
        for done in _scanned(store, plan, (*DOCUMENT, *EMBEDDING), vectors=True):
            try:
                output = _decoded(done, store.identity)
            except LostBlocksError as err:
                broken += err.failed
            else:
                yield to_document(done.row, done.text), output
    except LostBlocksError as err:
        broken += err.failed
    if broken:
        raise LostBlocksError(broken)


def _scanned(store: Store, plan: Plan, fields: Sequence[str], *, vectors: bool) -> Iterator[Complete]:
    """The rows that match, with their blocks; those whose blocks are lost are an error at the end."""
    broken: list[FailedDocument] = []
    for rows in matching(store, plan, fields):
        try:
            yield from store.complete(rows, fields, vectors=vectors, text=True)
        except LostBlocksError as err:
            broken += err.failed
    if broken:
        raise LostBlocksError(broken)


def embeddings(store: Store, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
    """The embeddings as they are stored, in the order of `ids`."""
    documents = _find(store, ids, heads, ["token_count", "truncated"])
    found = {done.row["id"]: _decoded(done, store.identity).select(heads) for done in documents}
    return {i: found[i] for i in ids if i in found}


def score(store: Store, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
    """Exact scores on the query's heads, in the order of `ids`."""
    scores: dict[str, HeadScores] = {}
    found = _find(store, ids, query.heads)
    while some := list(islice(found, DOCUMENTS_PER_SCORE)):
        exact = head_scores(query, _output(some, store.identity))
        if query.multi_vector is not None:
            maxima = _multi_vector_scores(query.multi_vector, some, store.identity)
            exact = [replace(one, multi_vector=score) for one, score in zip(exact, maxima, strict=True)]
        scores |= dict(zip((one.row["id"] for one in some), exact, strict=True))
    return {i: scores[i] for i in ids if i in scores}


def _find(store: Store, ids: Sequence[str], heads: Sequence[Head], fields: Sequence[str] = ()) -> Iterator[Complete]:
    """What is stored of these heads, and of the given fields."""
    late = "multi_vector" in heads
    fields = ["id", *fields, *(head for head in heads if head != "multi_vector"), *(POINTER if late else ())]
    rows = store.documents.fetch(keys_of(ids), fields)
    if late:
        return store.complete(rows, fields, vectors=True)
    if broken := faults(rows):
        raise LostBlocksError(broken)
    return (Complete(row, [], []) for row in rows.values())


def _multi_vector_scores(query: MultiVectorEmbeddings, found: Iterable[Complete], identity: Identity) -> list[float]:
    """As of what the codec kept, without decoding it."""
    codec, scores = get_codec(identity.codec), []
    for one in found:
        with _reading(one):
            scores.append(mean_of_maxima(codec.products(_vectors(one), query.vectors)))
    return scores


def bm25_scores(store: Store, text: str, ids: Sequence[str]) -> dict[str, float]:
    """Milvus' BM25 scores of these documents; those that share no word with the text are left out."""
    found: dict[str, float] = {}
    for group in bounded_runs(keys_of(ids), lambda key: 1, KEYS_PER_SEARCH):
        plan = Plan(among(group))
        found |= {hit.id: hit.score for hit in store.documents.search("bm25", text, len(group), plan, BM25)}
    return found


def _vectors(done: Complete) -> bytes:
    """The token vectors as the codec made them.

    Raises:
        ValueError: If there are none in its blocks.
    """
    data = join_vectors(done.vectors)
    if done.vectors and not data:
        msg = "its blocks are empty"
        raise ValueError(msg)
    return data


@contextmanager
def _reading(done: Complete) -> Iterator[None]:
    """Names the document whose blocks cannot be read."""
    try:
        yield
    except ValueError as err:
        raise LostBlocksError([FailedDocument(done.row["id"], f"{err}; {LOST}")]) from err


def _decoded(done: Complete, identity: Identity) -> M3Output:
    """The embeddings of one document; where no token vectors were read, it has none."""
    with _reading(done):
        vectors = get_codec(identity.codec).decode(_vectors(done), identity.multi_vector_dim)
    return replace(_output([done], identity), multi_vector=MultiVectorEmbeddings.from_list([vectors]))


def _output(found: Sequence[Complete], identity: Identity) -> M3Output:
    """The embeddings that are in the rows themselves."""
    return to_output([one.row for one in found], identity.vocab_size)
