"""The documents of one index and their doc values, read so that damage and a partial answer are noticed."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from elastic_transport import ObjectApiResponse
from elasticsearch import ApiError

from m3plugins import Document
from m3plugins.compression import get_codec
from m3plugins.encoding.batching import bounded_runs
from m3plugins.indexing.document import Digest
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.indexing.report import FailedDocument
from m3plugins_elasticsearch import requests
from m3plugins_elasticsearch.answers import check_whole, item_error
from m3plugins_elasticsearch.client import Connection, ElasticsearchIndexError, errors
from m3plugins_elasticsearch.field_paths import OURS, FieldPaths
from m3plugins_elasticsearch.filters import Plan
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.rows import Fields, read_digest

DOCUMENTS_PER_PAGE = 100
DOCUMENTS_PER_GET = 25
"""A node has no circuit breaker for these: 100 documents of 2 MB ended one with a heap of 512 MB."""
DOCUMENTS_PER_SCORE = 1000
EMBEDDINGS_PER_READ = 16
BYTES_PER_READ = 32 << 20
"""Size of token vectors, as text; the longest documents of BGE-M3, of 22 MB each in float16, are read one by one."""
_KEEP_ALIVE = "2h"
"""Life of the view that a scan reads, from page to page: whoever reads may encode each page on a CPU."""
_COMPARED = ("revision", "attributes", "title", "parent_id", "metadata")
_ROUTED = "routing_missing_exception"
COUNTS = ("token_count", "truncated")
_OPTIONAL = "sparse_weights"
"""A text without a token has none."""


class LostEmbeddingsError(ElasticsearchIndexError, BrokenDocumentsError):
    """Documents of which something is lost, as an update that is not ours does, or is not as it was written."""


@dataclass(frozen=True)
class Row:
    """A document of the index.

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
class Store:
    """Reads what one index holds.

    Attributes:
        connection: To Elasticsearch.
        name: The index's own.
        identity: What is stored.
        paths: Where.
        copies: Has one store always search the same copies of the shards, as each knows of a refresh at another time.
    """

    connection: Connection
    name: str
    identity: Identity
    paths: FieldPaths
    copies: str = field(default_factory=lambda: f"m3-{uuid.uuid4().hex}", repr=False)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order, as they are now; unknown ids are left out."""
        found: list[Document] = []
        for group in bounded_runs(ids, _one, DOCUMENTS_PER_GET):
            found += [self.document(item["_id"], item["_source"]) for item in self.fetch(group)]
        return found

    def fetch(self, ids: Sequence[str], source: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The items of these ids that there are, as they are now: a search would wait for a refresh."""
        if not ids:
            return []
        client, doing = self.connection.client, f"read from {self.name!r}"
        wanted = {"includes": list(source)} if source else self.paths.source
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
        if missing and self.paths.prefix:  # an owner may route documents, and the id alone does not say where to
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
            (answer,) = self.msearch([requests.whole(group, self.paths)])
            rows = [self.fields(hit) for hit in answer["hits"]["hits"]]
            named.update(row["id"][0] for row in rows if all(len(row.get(name, ())) == 1 for name in ("id", *COUNTS)))
        return {i for i in ids if named[i] == 1}

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored; what is damaged is not, and is written again.

        In an index of ours, texts are not read, and of the vectors it is asked only whether they are there. In someone
        else's, the digests are of the texts and metadata that were last enriched.
        """
        if self.paths.prefix:
            items = self.fetch(ids, [self.paths.field("revision"), self.paths.field("attributes")])
            ours = {item["_id"]: item["_source"].get(OURS) for item in items}
            stored = {i: read_digest(fields) for i, fields in ours.items() if isinstance(fields, dict)}
            return {i: digest for i, digest in stored.items() if digest}
        read = {item["_id"]: self._digest(item) for item in self.fetch(ids, _COMPARED)}
        found = {i: digest for i, digest in read.items() if digest}
        whole = self.whole(list(found))
        if hidden := [i for i in found if i not in whole]:
            self.show()  # what was written a moment ago, no search sees
            whole |= self.whole(hidden)
        return {i: digest for i, digest in found.items() if i in whole}

    def show(self) -> None:
        """Makes what was written visible to searches."""
        self.connection.refresh(self.name)

    def count(self, query: dict[str, Any] | None) -> int:
        """How many documents match."""
        client = self.connection.client
        return int(
            self.connection.read(f"count in {self.name!r}", lambda: client.count(index=self.name, query=query))["count"]
        )

    def matching(
        self, plan: Plan, fields: Sequence[str] = (), *, source: bool = False, page: int = DOCUMENTS_PER_PAGE
    ) -> Iterator[list[Row]]:
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

        values: list[Any] = [self.paths.field(name) for name in fields]
        at_most = page

        def ask(rest: dict[str, Any], size: int) -> Any:
            nonlocal at_most
            try:
                return client.search(
                    **rest,
                    size=size,
                    seq_no_primary_term=True,
                    docvalue_fields=values,
                    source=self.paths.source if source or plan.check else False,
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
                found = map(self._row, hits)
                yield [row for row in found if plan.check is None or plan.accepts(self.metadata(row))]
                rest["search_after"] = hits[-1]["sort"]
        finally:
            with suppress(ElasticsearchIndexError), errors(doing):
                client.close_point_in_time(id=point)

    def portions(self, ids: Sequence[str], sizes: Mapping[str, int] | None = None) -> Iterator[list[str]]:
        """Those that have embeddings, as many at a time as one answer may hold the token vectors of.

        Args:
            ids: Of documents.
            sizes: Of their token vectors; by default they are asked for.
        """
        if len(ids) < 2:
            return iter([list(ids)] if ids else [])
        if not sizes:
            rows = [self.doc_values(group, ["token_count"]) for group in bounded_runs(ids, _one, DOCUMENTS_PER_SCORE)]
            sizes = {i: self.size_of(row) for found in rows for i, row in found.items()}
        return bounded_runs((i for i in ids if i in sizes), sizes.__getitem__, BYTES_PER_READ)

    def size_of(self, row: Fields) -> int:
        """About how many bytes a document's token vectors take in an answer; so many that a page's number is kept."""
        vectors = int(row.get("token_count", [0])[0])
        packed = vectors * get_codec(self.identity.codec).bytes_per_token(self.identity.multi_vector_dim)
        return max(packed * 4 // 3, BYTES_PER_READ // EMBEDDINGS_PER_READ)

    def doc_values(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Fields]:
        """Doc values by id, of the documents that have embeddings."""
        (answer,) = self.msearch([requests.doc_values(ids, fields, self.paths)])
        rows = {i: self.fields(hit) for i, hit in self.by_id(ids, answer["hits"]["hits"]).items()}
        return {i: row for i, row in rows.items() if self.is_whole(i, row, fields)}

    def msearch(
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

    def fields(self, hit: dict[str, Any]) -> dict[str, list[Any]]:
        """Returns the doc values of a hit, by our own names."""
        return {name.removeprefix(self.paths.prefix): values for name, values in hit.get("fields", {}).items()}

    def document(self, id: str, source: Mapping[str, Any]) -> Document:
        """Returns the document that a source holds.

        Raises:
            LostEmbeddingsError: If it holds none.
        """
        with self.reading(id):
            return self.paths.document(id, source)

    def metadata(self, row: Row) -> Mapping[str, Any]:
        """Returns the metadata of a row whose source was read.

        Raises:
            LostEmbeddingsError: If there are none.
        """
        with self.reading(row.id):
            return self.paths.metadata(row.source)

    def by_id(self, ids: Sequence[str], hits: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The hits among these documents, by their ids: their places tell these, or our own fields in what is ours."""
        if self.paths.prefix:
            return {ids[requests.place(hit)]: hit for hit in hits}
        found = {self.fields(hit).get("id", [""])[0]: hit for hit in hits}
        if len(found) < len(hits) or not found.keys() <= set(ids):
            raise self.misnamed(requests.among_ids(ids))
        return found

    def misnamed(self, query: requests.Query) -> ElasticsearchIndexError:
        """Names the documents of these whose fields name another one, or none."""
        field = self.paths.field("id")
        body = {"query": query, "size": DOCUMENTS_PER_SCORE, "_source": False, "docvalue_fields": [field]}
        (answer,) = self.msearch([body])
        hits = [hit for hit in answer["hits"]["hits"] if hit.get("fields", {}).get(field) != [hit["_id"]]]
        return self._damaged(", ".join(hit["_id"] for hit in hits)[:200], "its field id must be its own id")

    def is_whole(self, id: str, row: Fields, fields: Sequence[str]) -> bool:
        """Whether a document has these fields: another's may have none yet, or have been robbed of some.

        Raises:
            ElasticsearchIndexError: If a document of ours has not.
        """
        lacking = [name for name in fields if name != _OPTIONAL and name not in row]
        if lacking and not self.paths.prefix:
            raise self._damaged(id, f"it has no {', '.join(lacking)}")
        return not lacking

    @contextmanager
    def reading(self, id: str) -> Iterator[None]:
        """Names the document whose stored values cannot be read."""
        try:
            yield
        except ValueError as err:
            raise self._damaged(id, str(err)) from err

    def _digest(self, item: Mapping[str, Any]) -> Digest | None:
        """Returns the digest of a document that can be read, and whose metadata and parent are what it is of."""
        digest, source = read_digest(item["_source"]), item["_source"]
        try:
            document = self.paths.document(item["_id"], {**source, "text": ""})
            document.check()
        except ValueError:
            return None
        return digest if digest and digest.attributes == document.digest().attributes else None

    def _fitting(self, rest: dict[str, Any], most: int) -> int:
        """Counts the next documents whose token vectors one answer may hold."""
        (answer,) = self.msearch([{**rest, **requests.light([self.paths.field("token_count")], most)}])
        sizes = [self.size_of(self.fields(hit)) for hit in answer["hits"]["hits"]]
        return len(next(bounded_runs(sizes, int, BYTES_PER_READ), [0]))

    def _row(self, hit: dict[str, Any]) -> Row:
        return Row(hit["_id"], self.fields(hit), hit.get("_source") or {}, hit["_seq_no"], hit["_primary_term"])

    def _damaged(self, id: str, reason: str) -> LostEmbeddingsError:
        fix = "delete it and index it again"
        if self.paths.prefix:
            fix = "take its m3 object out for m3 enrich to make anew"
        elif self.identity.cut is not None:
            fix = f"delete {id.rpartition('#')[0]!r}, of which it is a passage, and index that again"
        return LostEmbeddingsError([FailedDocument(id, f"{reason}; {fix}")])


def _one(item: object) -> int:
    return 1
