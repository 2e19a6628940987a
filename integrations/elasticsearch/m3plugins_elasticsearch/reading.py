"""What an index answers: documents, candidates, exact scores, embeddings."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from elastic_transport import ObjectApiResponse
from elasticsearch import ApiError

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.encoding.output import HEADS, Head, M3Output
from m3plugins.indexing.document import Candidate
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.report import FailedDocument
from m3plugins.scoring.heads import HeadScores, Signal
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins_elasticsearch import requests
from m3plugins_elasticsearch.answers import check_whole, item_error
from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError, errors
from m3plugins_elasticsearch.filters import Plan
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.layout import Layout
from m3plugins_elasticsearch.ordered_map import ordered_map
from m3plugins_elasticsearch.rows import Fields, to_output, token_bytes

Read = TypeVar("Read")

DOCUMENTS_PER_PAGE = 100
DOCUMENTS_PER_GET = 25
"""A node has no circuit breaker for these: 100 documents of 2 MB ended one with a heap of 512 MB."""
DOCUMENTS_PER_SCORE = 1000
EMBEDDINGS_PER_READ = 16
BYTES_PER_READ = 32 << 20
"""Of token vectors, as text; the longest documents of BGE-M3, with 22 MB each in float16, are read one by one."""
_READERS = 2
_KEEP_ALIVE = "2h"
"""Of the view that a scan reads, from page to page: whoever reads may encode each page on a CPU."""
_ROUTED = "routing_missing_exception"
_COUNTS = ("token_count", "truncated")
_OPTIONAL = "sparse_weights"
"""A text without a token has none."""
_FIELDS: dict[Head, str] = {"dense": "dense", "sparse": "sparse_weights", "multi_vector": "token_vectors"}


class LostEmbeddingsError(ElasticsearchIndexError, BrokenDocumentsError):
    """Documents of which something is lost, as an update that is not ours does, or is not as it was written."""


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: Its id.
        fields: Doc values of our fields, by their own names.
        source: The document without them, if it was asked for.
        seq_no: With `primary_term`, which change of the document this is.
        primary_term: See `seq_no`.
    """

    id: str
    fields: Fields
    source: dict[str, Any]
    seq_no: int
    primary_term: int


@dataclass(frozen=True)
class Reader:
    """One index.

    Attributes:
        connection: To Elasticsearch.
        name: The index's own.
        identity: What is stored.
        layout: Where.
        copies: Has one reader always search the same copies of the shards, as each knows of a refresh at another time.
    """

    connection: Connection
    name: str
    identity: Identity
    layout: Layout
    copies: str = field(default_factory=lambda: f"m3-{uuid.uuid4().hex}", repr=False)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order, as they are now; unknown ids are left out."""
        found: list[Document] = []
        for group in bounded_runs(ids, _one, DOCUMENTS_PER_GET):
            found += [self._document(item["_id"], item["_source"]) for item in self.fetch(group)]
        return found

    def fetch(self, ids: Sequence[str], source: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The items of these ids that there are, as they are now: a search would wait for a refresh."""
        if not ids:
            return []
        client, doing = self.connection.client, f"read from {self.name!r}"
        wanted = {"includes": list(source)} if source else self.layout.source
        includes, excludes = wanted["includes"], wanted.get("excludes")

        def ask() -> ObjectApiResponse[Any]:
            answer = client.mget(index=self.name, ids=ids, source_includes=includes, source_excludes=excludes)
            for item in answer["docs"]:
                if "error" in item and item["error"].get("type") != _ROUTED:
                    raise item_error(item, answer.meta)
            return answer

        answer = self.connection.read(doing, ask)
        found = {item["_id"]: item for item in answer["docs"] if item.get("found")}
        missing = [i for i in ids if i not in found]
        if missing and self.layout.prefix:  # an owner may route documents, and the id alone does not say where to
            answer = self.connection.read(
                doing,
                lambda: client.search(
                    index=self.name,
                    query={"ids": {"values": missing}},
                    size=len(missing),
                    source=wanted,
                    allow_partial_search_results=False,
                ),
            )
            found |= {hit["_id"]: hit for hit in answer["hits"]["hits"]}
        return [found[i] for i in ids if i in found]

    def whole(self, ids: Sequence[str]) -> set[str]:
        """Those of these documents that a search finds with all of our fields, each once by its own id."""
        named: Counter[str] = Counter()
        for group in bounded_runs(ids, _one, DOCUMENTS_PER_SCORE):
            (answer,) = self._msearch([requests.whole(group, self.layout)])
            rows = [self._fields(hit) for hit in answer["hits"]["hits"]]
            named.update(row["id"][0] for row in rows if all(len(row.get(name, ())) == 1 for name in ("id", *_COUNTS)))
        return {i for i in ids if named[i] == 1}

    def count(self, query: dict[str, Any] | None) -> int:
        """How many documents match."""
        client = self.connection.client
        return int(
            self.connection.read(f"count in {self.name!r}", lambda: client.count(index=self.name, query=query))["count"]
        )

    def matching(
        self, plan: Plan, fields: Sequence[str] = (), *, source: bool = False, page: int = DOCUMENTS_PER_PAGE
    ) -> Iterator[list[Hit]]:
        """Every document that matches, as the index is at the first page, in pages.

        Args:
            plan: Which.
            fields: Of ours, to read from doc values.
            source: Whether to read the document as well.
            page: Documents at a time; fewer, where their token vectors are of more than `BYTES_PER_READ`.
        """
        connection, client = self.connection, self.connection.client
        doing = f"scan {self.name!r}"
        point = connection.read(doing, lambda: client.open_point_in_time(index=self.name, keep_alive=_KEEP_ALIVE))["id"]

        values: list[Any] = [self.layout.field(name) for name in fields]
        at_most = page

        def ask(rest: dict[str, Any], size: int) -> Any:
            nonlocal at_most
            try:
                return client.search(
                    **rest,
                    size=size,
                    seq_no_primary_term=True,
                    docvalue_fields=values,
                    source=self.layout.source if source or plan.check else False,
                    allow_partial_search_results=False,
                )
            except ApiError as err:
                if "circuit_breaking_exception" not in str(err.body) or size == 1:
                    raise
                at_most = max(1, size // 4)  # so many are too much for the node's memory
                return ask(rest, at_most)

        rest: dict[str, Any] = {
            "query": plan.query or {"match_all": {}},
            "sort": ["_shard_doc"],
            "track_total_hits": False,
        }
        try:
            while True:
                rest["pit"] = {"id": point, "keep_alive": _KEEP_ALIVE}
                size = self._fitting(rest, at_most) if "token_vectors" in fields else at_most
                answer = connection.read(doing, partial(ask, rest, size))
                point, hits = answer["pit_id"], answer["hits"]["hits"]
                if not hits:
                    return
                found = [self._hit(hit) for hit in hits]
                yield [hit for hit in found if plan.check is None or plan.accepts(self._metadata(hit))]
                rest["search_after"] = hits[-1]["sort"]
        finally:
            with suppress(ElasticsearchIndexError), errors(doing):
                client.close_point_in_time(id=point)

    def scan(self, plan: Plan) -> Iterator[Document]:
        """Every document that matches.

        Raises:
            LostEmbeddingsError: At the end, if some cannot be read.
        """
        return _each(self.matching(plan, source=True), lambda hit: self._document(hit.id, hit.source))

    def scan_embeddings(self, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
        """Every document that matches and has embeddings, of the text that it has now, with these.

        Raises:
            LostEmbeddingsError: At the end, if a document of ours has lost some.
        """
        fields = [*_COUNTS, *_FIELDS.values(), *(["revision"] if self.layout.prefix else [])]

        def read(hit: Hit) -> tuple[Document, M3Output] | None:
            if not self._is_whole(hit.id, hit.fields, fields):
                return None  # not enriched yet
            document = self._document(hit.id, hit.source)
            if self.layout.prefix and hit.fields["revision"] != [document.digest().content]:
                return None
            return document, self._output(hit.id, hit.fields, HEADS)

        return _each(self.matching(plan, fields, source=True, page=EMBEDDINGS_PER_READ), read)

    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        """The stored embeddings, in the order of `ids`; what has none is left out, or has others not visible yet."""
        found: dict[str, M3Output] = {}
        heavy = "multi_vector" in heads
        for group in self._portions(ids) if heavy else bounded_runs(ids, _one, EMBEDDINGS_PER_READ):
            rows = self._doc_values(group, ["revision", *_COUNTS, *(_FIELDS[head] for head in heads)])
            if not self.layout.prefix:  # else they are of the text, whose change shows
                now = {item["_id"]: [item["_source"]["revision"]] for item in self.fetch(group, ["revision"])}
                rows = {i: row for i, row in rows.items() if row["revision"] == now.get(i)}
            found |= {i: self._output(i, row, heads) for i, row in rows.items()}
        return {i: found[i] for i in ids if i in found}

    def candidates(self, query: M3Output, k: int, plan: Plan, text: str | None) -> dict[Signal, list[Candidate]]:
        """The best k documents of each signal, in one request."""
        found: dict[Signal, list[Candidate]] = {"dense": []} if query.dense is not None else {}
        found |= {"sparse": []} if query.sparse is not None else {}
        where = self._where(plan)
        bodies = requests.searches(query, text, requests.check_k(k), where, self.identity, self.layout)
        if not bodies:
            return found
        answers = self._msearch(list(bodies.values()), statistics=text is not None)
        for signal, answer in zip(bodies, answers, strict=True):
            best: dict[str, Candidate] = {}  # a copy of a document proposes the document
            for hit in answer["hits"]["hits"]:
                candidate = self._candidate(signal, hit)
                best.setdefault(candidate.id, candidate)
            found[signal] = list(best.values())
        return found

    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        """Exact scores of the documents that have embeddings, in the order of `ids`."""
        found: dict[str, HeadScores] = {}
        sizes: dict[str, int] = {}
        if query.dense is not None or query.sparse is not None or text is not None:
            for group in bounded_runs(ids, _one, DOCUMENTS_PER_SCORE):
                body = requests.scores(query, text, group, self.layout)
                (answer,) = self._msearch([body], named=True, statistics=text is not None)
                for i, hit in self._by_id(group, answer["hits"]["hits"]).items():
                    row = self._fields(hit) | ({"dense": []} if "dense" in hit.get("matched_queries", ()) else {})
                    if self._is_whole(i, row, ["token_count", *(["dense"] if query.dense is not None else [])]):
                        found[i], sizes[i] = self._scores(hit, query, text), self._size(row)
        if query.multi_vector is not None:
            late = self._late_scores(query, self._portions(ids, sizes))
            found = {i: replace(found.get(i, HeadScores()), multi_vector=score) for i, score in late.items()}
        return {i: found[i] for i in ids if i in found}

    def _late_scores(self, query: M3Output, portions: Iterable[list[str]]) -> dict[str, float]:
        """Of what the codec kept, without decoding it; while some documents are scored, others are read."""
        assert query.multi_vector is not None  # the caller asked
        codec, vectors = get_codec(self.identity.codec), query.multi_vector.vectors

        scores: dict[str, float] = {}
        for rows in ordered_map(partial(self._doc_values, fields=["token_vectors"]), portions, _READERS):
            for i, row in rows.items():
                with self.reading(i):
                    scores[i] = mean_of_maxima(codec.products(token_bytes(row), vectors))
        return scores

    def _portions(self, ids: Sequence[str], sizes: Mapping[str, int] | None = None) -> Iterator[list[str]]:
        """Those that have embeddings, as many at a time as one answer may hold the token vectors of.

        Args:
            ids: Of documents.
            sizes: Of their token vectors; by default they are asked for.
        """
        if len(ids) < 2:
            return iter([list(ids)] if ids else [])
        if not sizes:
            rows = [self._doc_values(group, ["token_count"]) for group in bounded_runs(ids, _one, DOCUMENTS_PER_SCORE)]
            sizes = {i: self._size(row) for found in rows for i, row in found.items()}
        return bounded_runs((i for i in ids if i in sizes), sizes.__getitem__, BYTES_PER_READ)

    def _fitting(self, rest: dict[str, Any], most: int) -> int:
        """Of how many of the next documents one answer may hold the token vectors."""
        (answer,) = self._msearch([{**rest, **requests.light([self.layout.field("token_count")], most)}])
        sizes = [self._size(self._fields(hit)) for hit in answer["hits"]["hits"]]
        return len(next(bounded_runs(sizes, int, BYTES_PER_READ), [0]))

    def _size(self, row: Fields) -> int:
        """About how many bytes a document's token vectors take in an answer; so many that a page's number is kept."""
        vectors = int(row.get("token_count", [0])[0])
        packed = vectors * get_codec(self.identity.codec).bytes_per_token(self.identity.multi_vector_dim)
        return max(packed * 4 // 3, BYTES_PER_READ // EMBEDDINGS_PER_READ)

    def _doc_values(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Fields]:
        """Doc values by id, of the documents that have embeddings."""
        (answer,) = self._msearch([requests.doc_values(ids, fields, self.layout)])
        rows = {i: self._fields(hit) for i, hit in self._by_id(ids, answer["hits"]["hits"]).items()}
        return {i: row for i, row in rows.items() if self._is_whole(i, row, fields)}

    def _where(self, plan: Plan) -> dict[str, Any] | None:
        """The documents that match, exactly."""
        if plan.check is None:
            return plan.query
        return {"ids": {"values": [hit.id for hits in self.matching(plan) for hit in hits]}}

    def _msearch(
        self, bodies: Sequence[dict[str, Any]], *, named: bool = False, statistics: bool = False
    ) -> list[dict[str, Any]]:
        """The answers to several searches, whole ones: a shard that fails is an error.

        Args:
            bodies: One a search; those of a point in time say themselves where.
            named: Whether to tell the score of each named query.
            statistics: Whether BM25 is to count the words of all shards.
        """
        client = self.connection.client
        whole = {"allow_partial_search_results": False}
        header = {**whole, "index": self.name, "preference": self.copies}
        if statistics:
            header["search_type"] = "dfs_query_then_fetch"

        def ask() -> list[dict[str, Any]]:
            searches = [line for body in bodies for line in (whole if "pit" in body else header, body)]
            answer = client.msearch(searches=searches, include_named_queries_score=named)
            for item in answer["responses"]:
                if "error" in item:
                    raise item_error(item, answer.meta)
                check_whole(item, answer.meta)
            return list(answer["responses"])

        return self.connection.read(f"search {self.name!r}", ask)

    def _hit(self, hit: dict[str, Any]) -> Hit:
        return Hit(hit["_id"], self._fields(hit), hit.get("_source") or {}, hit["_seq_no"], hit["_primary_term"])

    def _fields(self, hit: dict[str, Any]) -> dict[str, list[Any]]:
        return {name.removeprefix(self.layout.prefix): values for name, values in hit.get("fields", {}).items()}

    def _candidate(self, signal: Signal, hit: dict[str, Any]) -> Candidate:
        score = 2 * hit["_score"] - 1 if signal == "dense" else hit["_score"]
        named = self._fields(hit).get("id")
        if named is None:
            raise self._misnamed({"bool": {"must_not": [{"exists": {"field": self.layout.field("id")}}]}})
        return Candidate(named[0], score)

    def _scores(self, hit: dict[str, Any], query: M3Output, text: str | None) -> HeadScores:
        matched = hit.get("matched_queries", {})
        return HeadScores(
            dense=2 * matched["dense"] - 1 if query.dense is not None else None,
            sparse=matched.get("sparse", 0.0) if query.sparse is not None else None,
            bm25=matched.get("bm25", 0.0) if text is not None else None,
        )

    def _output(self, id: str, row: Fields, heads: Sequence[Head]) -> M3Output:
        identity = self.identity
        with self.reading(id):
            return to_output([row], heads, identity.codec, identity.vocab_size, identity.multi_vector_dim)

    def _document(self, id: str, source: Mapping[str, Any]) -> Document:
        with self.reading(id):
            return self.layout.document(id, source)

    def _metadata(self, hit: Hit) -> Mapping[str, Any]:
        with self.reading(hit.id):
            return self.layout.metadata(hit.source)

    def _by_id(self, ids: Sequence[str], hits: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The hits among these documents, by their ids: their places tell these, or our own fields in what is ours."""
        if self.layout.prefix:
            return {ids[requests.place(hit)]: hit for hit in hits}
        found = {self._fields(hit).get("id", [""])[0]: hit for hit in hits}
        if len(found) < len(hits) or not found.keys() <= set(ids):
            raise self._misnamed(requests.among_ids(ids))
        return found

    def _misnamed(self, query: requests.Query) -> ElasticsearchIndexError:
        """Names the documents of these whose fields name another one, or none."""
        field = self.layout.field("id")
        body = {"query": query, "size": DOCUMENTS_PER_SCORE, "_source": False, "docvalue_fields": [field]}
        (answer,) = self._msearch([body])
        hits = [hit for hit in answer["hits"]["hits"] if hit.get("fields", {}).get(field) != [hit["_id"]]]
        return self._damaged(", ".join(hit["_id"] for hit in hits)[:200], "its field id must be its own id")

    def _is_whole(self, id: str, row: Fields, fields: Sequence[str]) -> bool:
        """Whether a document has these fields: another's may have none yet, or have been robbed of some.

        Raises:
            ElasticsearchIndexError: If a document of ours has not.
        """
        lacking = [name for name in fields if name != _OPTIONAL and name not in row]
        if lacking and not self.layout.prefix:
            raise self._damaged(id, f"it has no {', '.join(lacking)}")
        return not lacking

    @contextmanager
    def reading(self, id: str) -> Iterator[None]:
        """Names the document whose stored values cannot be read."""
        try:
            yield
        except ValueError as err:
            raise self._damaged(id, str(err)) from err

    def _damaged(self, id: str, reason: str) -> LostEmbeddingsError:
        fix = "delete it and index it again"
        if self.layout.prefix:
            fix = "take its m3 object out for m3 enrich to make anew"
        elif self.identity.cut is not None:
            fix = f"delete {id.rpartition('#')[0]!r}, of which it is a passage, and index that again"
        return LostEmbeddingsError([FailedDocument(id, f"{reason}; {fix}")])


def _one(item: object) -> int:
    return 1


def _each(pages: Iterable[Iterable[Hit]], read: Callable[[Hit], Read | None]) -> Iterator[Read]:
    """What is read of each hit that gives something; those that cannot be read are an error at the end.

    Raises:
        LostEmbeddingsError: If there are any.
    """
    broken: list[FailedDocument] = []
    for hits in pages:
        for hit in hits:
            try:
                found = read(hit)
            except LostEmbeddingsError as err:
                broken += err.failed
            else:
                if found is not None:
                    yield found
    if broken:
        raise LostEmbeddingsError(broken)
