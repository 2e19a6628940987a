"""The `Reader` of an index of ours: documents, candidates, exact scores, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import RLock
from typing import Any

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import Head, M3Output
from m3plugins.indexing.document import Candidate, Digest
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.named_index import bm25_fault
from m3plugins.indexing.reader import Reader
from m3plugins.indexing.report import FailedDocument
from m3plugins.scoring.heads import SIGNALS, HeadScores, Signal, head_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins_milvus.blocks import POINTER, join_vectors
from m3plugins_milvus.filters import Plan, compile_filter
from m3plugins_milvus.identity import Identity
from m3plugins_milvus.native import field_names, unknown_field
from m3plugins_milvus.requests import Consistency, among
from m3plugins_milvus.rows import DOCUMENT, EMBEDDING, sparse_row, to_document, to_output
from m3plugins_milvus.schema import BM25, PUBLIC_FIELDS, SPARSE_INDEX
from m3plugins_milvus.store import LOST, Complete, LostBlocksError, Store, faults, keys_of

DOCUMENTS_PER_SCORE = 32
KEYS_PER_SEARCH = 1000
REOPEN = "open it again with MilvusHybridIndex.open"


class MilvusReader(Reader[Plan]):
    """Reads documents and their blocks; searches the signals of a query in parallel.

    Args:
        store: The two collections.
        lock: What the writers of the collection share.
        consistency: Of searches for candidates on a server.
    """

    def __init__(self, store: Store, lock: RLock, consistency: Consistency) -> None:
        self._store = store
        self._identity = store.identity
        self._lock = lock
        self._consistency = consistency
        self._signals = ThreadPoolExecutor(len(SIGNALS), thread_name_prefix="m3-search")

    @property
    def name(self) -> str:
        """The collection's own name."""
        return self._store.documents.name

    @property
    def bm25_fault(self) -> str:
        """Says why there is no BM25; "" if there is."""
        return bm25_fault(self._identity.bm25, self.name)

    def compile(self, filter: AnyFilter | None) -> Plan:
        """Compiles a filter; a native one names only fields that there are: Milvus takes any for a dynamic one."""
        if isinstance(filter, str):
            for name in sorted(field_names(filter) - self._identity.fields):
                raise unknown_field(name, PUBLIC_FIELDS, "metadata")
        return compile_filter(filter, self._identity.tenant)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order."""
        return self._store.get(ids)

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored whole."""
        return self._store.digests(ids)

    def count(self, plan: Plan) -> int:
        """Counts the documents that match."""
        if plan.check is None:
            return self._store.documents.count(plan.expression)
        return sum(len(rows) for rows in self._store.matching(plan, ()))

    def scan(self, plan: Plan) -> Iterator[Document]:
        """Yields every document that matches; those that cannot be read are an error at the end."""
        for done in self._scanned(plan, DOCUMENT, vectors=False):
            yield to_document(done.row, done.text)

    def scan_embeddings(self, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
        """Yields every document that matches, with its embeddings as they are stored; else as `scan`."""
        broken: list[FailedDocument] = []
        try:
            for done in self._scanned(plan, (*DOCUMENT, *EMBEDDING), vectors=True):
                try:
                    output = _decoded(done, self._identity)
                except LostBlocksError as err:
                    broken += err.failed
                else:
                    yield to_document(done.row, done.text), output
        except LostBlocksError as err:
            broken += err.failed
        if broken:
            raise LostBlocksError(broken)

    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        """Returns the embeddings as they are stored; token vectors are read only if they are asked for."""
        documents = self._find(ids, heads, ["token_count", "truncated"])
        found = {done.row["id"]: _decoded(done, self._identity).select(heads) for done in documents}
        return {i: found[i] for i in ids if i in found}

    def candidates(self, query: M3Output, k: int, plan: Plan, text: str | None) -> dict[Signal, list[Candidate]]:
        """Returns the best k documents of each signal."""
        signals: dict[Signal, Future[list[Candidate]]] = {}
        submit, search = self._submit, partial(self._store.documents.search, consistency=self._consistency)
        if query.dense is not None:
            kind = self._identity.dense_index["index_type"]
            signals["dense"] = submit(search, "dense", query.dense[0], k, plan, kind)
        if query.sparse is not None:
            weights = sparse_row(query.sparse[0], self._identity.vocab_size)
            signals["sparse"] = submit(search, "sparse", weights, k, plan, SPARSE_INDEX) if weights else submit(list)
        if text is not None:
            signals["bm25"] = submit(search, "bm25", text, k, plan, BM25)
        found = {signal: future.result() for signal, future in signals.items()}
        return {
            signal: hits if signal == "dense" else [hit for hit in hits if hit.score > 0]
            for signal, hits in found.items()
        }

    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        """Returns exact scores on the query's heads, in the order of `ids`."""
        scores: dict[str, HeadScores] = {}
        found = self._find(ids, query.heads)
        while some := list(islice(found, DOCUMENTS_PER_SCORE)):
            exact = head_scores(query, _output(some, self._identity))
            if query.multi_vector is not None:
                late = [_late_score(query.multi_vector, one, self._identity) for one in some]
                exact = [replace(one, multi_vector=score) for one, score in zip(exact, late, strict=True)]
            scores |= dict(zip((one.row["id"] for one in some), exact, strict=True))
        scores = {i: scores[i] for i in ids if i in scores}
        if text is None:
            return scores
        lexical = self._bm25_scores(text, list(scores))
        return {i: replace(score, bm25=lexical.get(i, 0.0)) for i, score in scores.items()}

    def close(self) -> None:
        """Ends the connection; the last index of a Lite file frees it for other processes."""
        connection = self._store.documents.connection
        with self._lock:
            if not connection.closed.is_set():
                self._signals.shutdown()
                connection.close()

    def _submit(self, *task: Any) -> Future[list[Candidate]]:
        try:
            return self._signals.submit(*task)
        except RuntimeError as err:  # another thread has closed it
            msg = f"this index is closed; {REOPEN}"
            raise ValueError(msg) from err

    def _scanned(self, plan: Plan, fields: Sequence[str], *, vectors: bool) -> Iterator[Complete]:
        """Yields the rows that match, with their blocks; those whose blocks are lost are an error at the end."""
        broken: list[FailedDocument] = []
        for rows in self._store.matching(plan, fields):
            try:
                yield from self._store.complete(rows, fields, vectors=vectors, text=True)
            except LostBlocksError as err:
                broken += err.failed
        if broken:
            raise LostBlocksError(broken)

    def _find(self, ids: Sequence[str], heads: Sequence[Head], fields: Sequence[str] = ()) -> Iterator[Complete]:
        """Yields what is stored of these heads, and of the given fields."""
        late = "multi_vector" in heads
        fields = ["id", *fields, *(head for head in heads if head != "multi_vector"), *(POINTER if late else ())]
        rows = self._store.documents.fetch(keys_of(ids), fields)
        if late:
            return self._store.complete(rows, fields, vectors=True)
        if broken := faults(rows):
            raise LostBlocksError(broken)
        return (Complete(row, [], []) for row in rows.values())

    def _bm25_scores(self, text: str, ids: Sequence[str]) -> dict[str, float]:
        """Returns Milvus' BM25 scores of these documents; those that share no word with the text are left out."""
        found: dict[str, float] = {}
        for group in bounded_runs(keys_of(ids), lambda key: 1, KEYS_PER_SEARCH):
            plan = Plan(among(group))
            found |= {hit.id: hit.score for hit in self._store.documents.search("bm25", text, len(group), plan, BM25)}
        return found


def _late_score(query: MultiVectorEmbeddings, done: Complete, identity: Identity) -> float:
    """Returns the multi-vector score of what the codec kept, without decoding it."""
    with _reading(done):
        return mean_of_maxima(get_codec(identity.codec).products(_vectors(done), query.vectors))


def _vectors(done: Complete) -> bytes:
    """Returns the token vectors as the codec made them.

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
    """Returns the embeddings of one document; where no token vectors were read, it has none."""
    with _reading(done):
        vectors = get_codec(identity.codec).decode(_vectors(done), identity.multi_vector_dim)
    return replace(_output([done], identity), multi_vector=MultiVectorEmbeddings.from_list([vectors]))


def _output(found: Sequence[Complete], identity: Identity) -> M3Output:
    """Returns the embeddings that are in the rows themselves."""
    return to_output([one.row for one in found], identity.vocab_size)
