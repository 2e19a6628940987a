"""The feed of a shard's changes, in their order: each document that is there, at its newest change.

Elasticsearch numbers the changes of a shard. Up to the global checkpoint all of them are on every copy, and after a
refresh a search sees them. Deletes do not show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from elasticsearch import BadRequestError, SerializationError

from m3plugins.indexing.document import Digest
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher.ranges import Range, within
from m3plugins_elasticsearch.store import Store

PAGE_BYTES = 8 << 20
"""About as many bytes of documents are read at a time."""

PAGE = 500
_FIRST_PAGE = 4
_KEPT = ("id", "model", "revision", "attributes")
_WHOLE = ("dense", "sparse", "sparse_weights", "token_vectors", "token_count", "truncated")

Held = Literal["all", "some", "none"]


@dataclass(frozen=True)
class Change:
    """A document at its newest change.

    Attributes:
        id: Id of the document.
        routing: Routing of the document, if it has one of its own.
        seq_no: Sequence number of the change, which is unique together with `primary_term`.
        primary_term: See `seq_no`.
        source: The document, without our fields.
        fault: The reason why the source cannot be read; "" if it can.
        held: Whether it has all, some or none of our fields.
        owner: Id of the document that they were made for: another one, if this is a copy.
        model: Stamp of the model that made them.
        digest: Digest of what they were made of, if all are there.
    """

    id: str
    routing: str | None
    seq_no: int
    primary_term: int
    source: Mapping[str, Any]
    fault: str = ""
    held: Held = "none"
    owner: str = ""
    model: str = ""
    digest: Digest | None = None

    @property
    def condition(self) -> dict[str, int | str]:
        """The condition of a write: that nobody has changed the document since."""
        condition: dict[str, int | str] = {"if_seq_no": self.seq_no, "if_primary_term": self.primary_term}
        return condition if self.routing is None else {**condition, "routing": self.routing}


class Feed:
    """Reads the changes of one index.

    Args:
        store: The documents of the index.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._size = _FIRST_PAGE

    def refresh(self) -> None:
        """Makes what was written visible, in every copy that may be read."""
        self.store.show()

    def end(self, shard: int, after: int, upto: int, without: Sequence[Range], count: int) -> int:
        """Finds the change that ends the next `count` documents; `upto` if there are fewer.

        Args:
            shard: Number of the shard.
            after: Sequence number before the first change.
            upto: The last change that counts.
            without: Changes that do not count.
            count: Number of documents.
        """
        hits = self._search(shard, after, upto, without, count, {"stored_fields": "_none_", "source": False})
        return int(hits[-1]["sort"][0]) if len(hits) == count else upto

    def changes(
        self, shard: int, after: int, upto: int, without: Sequence[Range] = (), *, fault: str = ""
    ) -> Iterator[list[Change]]:
        """Reads the documents, in pages of bounded size.

        Args:
            shard: Number of the shard.
            after: Sequence number before the first change.
            upto: The last change.
            without: Changes to leave out.
            fault: The reason why the documents themselves are not to be read, if there is one.
        """
        while after < upto and (hits := self._page(shard, after, upto, without, self._size, fault)):
            after = hits[-1]["_seq_no"]
            each = max(1, len(json.dumps([hit.get("_source") for hit in hits])) // len(hits))
            self._size = max(1, min(2 * self._size, PAGE, PAGE_BYTES // each))
            yield [self._change(hit) for hit in hits]

    def _page(
        self, shard: int, after: int, upto: int, without: Sequence[Range], size: int, fault: str = ""
    ) -> list[dict[str, Any]]:
        """Reads the next hits; of a page that cannot be read only the first, without its source if it is to blame."""
        paths = self.store.paths
        wanted = {
            "source": paths.source,
            "docvalue_fields": [paths.field(name) for name in _KEPT],
            "seq_no_primary_term": True,
        }
        if fault:
            hits = self._search(shard, after, upto, without, size, {**wanted, "source": False})
            return [{**hit, "fault": fault} for hit in hits]
        try:
            return self._search(shard, after, upto, without, size, wanted)
        except MemoryError as err:
            fault = "" if size > 1 else f"the document cannot be read: {err!r}"
            return self._page(shard, after, upto, without, 1, fault)
        except ElasticsearchIndexError as err:
            if not isinstance(err.__cause__, SerializationError | BadRequestError):
                self._size = max(1, size // 2)  # perhaps it was too much
                raise
            if size > 1:
                return self._page(shard, after, upto, without, 1)
            return self._page(shard, after, upto, without, 1, f"the document cannot be read: {_cause(err.__cause__)}")

    def _search(
        self, shard: int, after: int, upto: int, without: Sequence[Range], size: int, wanted: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        connection, name, paths = self.store.connection, self.store.name, self.store.paths
        marks = [{"exists": {"field": paths.field(name)}} for name in _WHOLE]
        query = {
            "filter": [{"range": {"_seq_no": {"gt": after, "lte": upto}}}],
            "must_not": [{"range": {"_seq_no": {"gte": a, "lte": b}}} for a, b in within(without, after, upto)],
            "should": [
                {"bool": {"_name": "all", "filter": marks}},
                {"exists": {"_name": "some", "field": paths.field("*")}},
            ],
        }
        answer = connection.read(
            f"read the changes of {name!r}",
            lambda: connection.client.search(
                index=name,
                preference=f"_shards:{shard}",
                query={"bool": query},
                sort=[{"_seq_no": "asc"}],
                size=size,
                track_total_hits=False,
                allow_partial_search_results=False,
                **wanted,
            ),
        )
        return list(answer["hits"]["hits"])

    def _change(self, hit: dict[str, Any]) -> Change:
        paths, matched, fields = self.store.paths, hit.get("matched_queries", ()), hit.get("fields", {})
        kept = [fields.get(paths.field(name), [""]) for name in _KEPT]
        owner, model, revision, attributes = (values[0] for values in kept)
        complete = "all" in matched and all(len(values) == 1 and values[0] for values in kept)
        return Change(
            id=hit["_id"],
            routing=hit.get("_routing"),
            seq_no=hit["_seq_no"],
            primary_term=hit["_primary_term"],
            source=hit.get("_source") or {},
            fault=hit.get("fault", ""),
            held="all" if complete else "some" if "some" in matched else "none",
            owner=owner,
            model=model,
            digest=Digest(revision, attributes) if complete else None,
        )


def _cause(err: BaseException | None) -> str:
    """Says in one line what the parser says, not the answer that it could not parse."""
    parser = err.__context__ if isinstance(err, SerializationError) else None
    return " ".join(str(parser or err).split())[:200]
