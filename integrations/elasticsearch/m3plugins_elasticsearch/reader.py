"""The `Reader` of every index in Elasticsearch, whoever writes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.indexing.document import Candidate, Digest
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.named_index import bm25_fault
from m3plugins.indexing.reader import Reader
from m3plugins.indexing.report import FailedDocument
from m3plugins.scoring.heads import HeadScores, Signal
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins_elasticsearch import lifecycle, requests
from m3plugins_elasticsearch.filters import Plan, check_fields, compile_filter
from m3plugins_elasticsearch.ordered_map import ordered_map
from m3plugins_elasticsearch.rows import Fields, to_output, token_bytes
from m3plugins_elasticsearch.store import (
    COUNTS,
    DOCUMENTS_PER_SCORE,
    EMBEDDINGS_PER_READ,
    LostEmbeddingsError,
    Row,
    Store,
)

Read = TypeVar("Read")

_READERS = 2
_FIELDS: dict[Head, str] = {"dense": "dense", "sparse": "sparse_weights", "multi_vector": "token_vectors"}


class ElasticsearchReader(Reader[Plan]):
    """Reads and ranks what a store holds.

    Args:
        store: The documents of the index.

    Attributes:
        store: The same.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    @property
    def name(self) -> str:
        """The index's own name."""
        return self.store.name

    @property
    def bm25_fault(self) -> str:
        """Says why there is no BM25; "" if there is."""
        return bm25_fault(self.store.identity.bm25, self.name)

    def compile(self, filter: AnyFilter | None) -> Plan:
        """Compiles a filter; a native one names only fields that there are: Elasticsearch takes any."""
        plan = compile_filter(filter, self.store.paths.field("facets"))
        if isinstance(filter, dict):
            try:
                check_fields(filter, *self._known)
            except ValueError:
                self._known = lifecycle.searchable_fields(self.store.connection, self.name)
                check_fields(filter, *self._known)
        return plan

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order, as they are now."""
        return self.store.get(ids)

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored whole, or were enriched."""
        return self.store.digests(ids)

    def count(self, plan: Plan) -> int:
        """Counts the documents that match, as searches see them."""
        if plan.check is None:
            return self.store.count(plan.query)
        return sum(len(rows) for rows in self.store.matching(plan))

    def scan(self, plan: Plan) -> Iterator[Document]:
        """Yields every document that matches.

        Raises:
            LostEmbeddingsError: At the end, if some cannot be read.
        """
        return _each(self.store.matching(plan, source=True), lambda hit: self.store.document(hit.id, hit.source))

    def scan_embeddings(self, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
        """Yields every document that matches and has embeddings, of the text that it has now, with these.

        Raises:
            LostEmbeddingsError: At the end, if a document of ours has lost some.
        """
        fields = [*COUNTS, *_FIELDS.values(), *(["revision"] if self.store.paths.prefix else [])]

        def read(hit: Row) -> tuple[Document, M3Output] | None:
            if not self.store.is_whole(hit.id, hit.fields, fields):
                return None  # not enriched yet
            document = self.store.document(hit.id, hit.source)
            if self.store.paths.prefix and hit.fields["revision"] != [document.digest().content]:
                return None
            return document, self._output(hit.id, hit.fields, HEADS)

        return _each(self.store.matching(plan, fields, source=True, page=EMBEDDINGS_PER_READ), read)

    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        """Returns the stored embeddings; what has none is left out, and what has others that are not visible yet."""
        found: dict[str, M3Output] = {}
        heavy = "multi_vector" in heads
        for group in self.store.portions(ids) if heavy else bounded_runs(ids, _one, EMBEDDINGS_PER_READ):
            rows = self.store.doc_values(group, ["revision", *COUNTS, *(_FIELDS[head] for head in heads)])
            if not self.store.paths.prefix:  # else they are of the text, whose change shows
                now = {item["_id"]: [item["_source"]["revision"]] for item in self.store.fetch(group, ["revision"])}
                rows = {i: row for i, row in rows.items() if row["revision"] == now.get(i)}
            found |= {i: self._output(i, row, heads) for i, row in rows.items()}
        return {i: found[i] for i in ids if i in found}

    def candidates(self, query: M3Output, k: int, plan: Plan, text: str | None) -> dict[Signal, list[Candidate]]:
        """Returns the best k documents of each signal, in one request; k is at most 10,000."""
        found: dict[Signal, list[Candidate]] = {"dense": []} if query.dense is not None else {}
        found |= {"sparse": []} if query.sparse is not None else {}
        where = self._where(plan)
        bodies = requests.searches(query, text, requests.check_k(k), where, self.store.identity, self.store.paths)
        if not bodies:
            return found
        answers = self.store.msearch(list(bodies.values()), statistics=text is not None)
        for signal, answer in zip(bodies, answers, strict=True):
            best: dict[str, Candidate] = {}  # a copy of a document proposes the document
            for hit in answer["hits"]["hits"]:
                candidate = self._candidate(signal, hit)
                best.setdefault(candidate.id, candidate)
            found[signal] = list(best.values())
        return found

    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        """Returns exact scores of the documents that have embeddings, in the order of `ids`."""
        found: dict[str, HeadScores] = {}
        sizes: dict[str, int] = {}
        if query.dense is not None or query.sparse is not None or text is not None:
            for group in bounded_runs(ids, _one, DOCUMENTS_PER_SCORE):
                body = requests.scores(query, text, group, self.store.paths)
                (answer,) = self.store.msearch([body], named=True, statistics=text is not None)
                for i, hit in self.store.by_id(group, answer["hits"]["hits"]).items():
                    row = self.store.fields(hit) | ({"dense": []} if "dense" in hit.get("matched_queries", ()) else {})
                    if self.store.is_whole(i, row, ["token_count", *(["dense"] if query.dense is not None else [])]):
                        found[i], sizes[i] = self._scores(hit, query, text), self.store.size_of(row)
        if query.multi_vector is not None:
            late = self._late_scores(query, self.store.portions(ids, sizes))
            found = {i: replace(found.get(i, HeadScores()), multi_vector=score) for i, score in late.items()}
        return {i: found[i] for i in ids if i in found}

    def close(self) -> None:
        """Ends the connection, unless the client is the user's own."""
        self.store.connection.close()

    def _late_scores(self, query: M3Output, portions: Iterable[list[str]]) -> dict[str, float]:
        """Scores what the codec kept, without decoding it; while some documents are scored, others are read."""
        assert query.multi_vector is not None  # the caller asked
        codec, vectors = get_codec(self.store.identity.codec), query.multi_vector.vectors

        scores: dict[str, float] = {}
        for rows in ordered_map(partial(self.store.doc_values, fields=["token_vectors"]), portions, _READERS):
            for i, row in rows.items():
                with self.store.reading(i):
                    scores[i] = mean_of_maxima(codec.products(token_bytes(row), vectors))
        return scores

    def _where(self, plan: Plan) -> dict[str, Any] | None:
        """Returns the query of the documents that match, exactly."""
        if plan.check is None:
            return plan.query
        return {"ids": {"values": [hit.id for hits in self.store.matching(plan) for hit in hits]}}

    def _candidate(self, signal: Signal, hit: dict[str, Any]) -> Candidate:
        score = 2 * hit["_score"] - 1 if signal == "dense" else hit["_score"]
        named = self.store.fields(hit).get("id")
        if named is None:
            raise self.store.misnamed({"bool": {"must_not": [{"exists": {"field": self.store.paths.field("id")}}]}})
        return Candidate(named[0], score)

    def _scores(self, hit: dict[str, Any], query: M3Output, text: str | None) -> HeadScores:
        matched = hit.get("matched_queries", {})
        return HeadScores(
            dense=2 * matched["dense"] - 1 if query.dense is not None else None,
            sparse=matched.get("sparse", 0.0) if query.sparse is not None else None,
            bm25=matched.get("bm25", 0.0) if text is not None else None,
        )

    def _output(self, id: str, row: Fields, heads: Sequence[Head]) -> M3Output:
        identity = self.store.identity
        with self.store.reading(id):
            return to_output([row], heads, identity.codec, identity.vocab_size, identity.multi_vector_dim)


def _one(item: object) -> int:
    return 1


def _each(pages: Iterable[Iterable[Row]], read: Callable[[Row], Read | None]) -> Iterator[Read]:
    """Yields what is read of each row that gives something; those that cannot be read are an error at the end.

    Raises:
        LostEmbeddingsError: If there are any.
    """
    broken: list[FailedDocument] = []
    for rows in pages:
        for row in rows:
            try:
                found = read(row)
            except LostEmbeddingsError as err:
                broken += err.failed
            else:
                if found is not None:
                    yield found
    if broken:
        raise LostEmbeddingsError(broken)
