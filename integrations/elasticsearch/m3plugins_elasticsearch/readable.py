"""What every index in Elasticsearch answers, whoever writes to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, overload

from m3plugins import Document, M3Encoder
from m3plugins.encoding.output import HEADS, M3Output, check_heads
from m3plugins.indexing.arguments import check_ids
from m3plugins.indexing.document import Candidate
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.named_index import EngineIndex, check_bm25
from m3plugins.scoring.heads import HeadScores, Signal, check_query
from m3plugins_elasticsearch import lifecycle
from m3plugins_elasticsearch.capabilities import Capabilities, probe
from m3plugins_elasticsearch.filters import Plan, check_fields, compile_filter
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.reading import Reader


class ReadableIndex(EngineIndex):
    """The reading half of a `HybridIndex`."""

    def __init__(self, reader: Reader, encoder: M3Encoder) -> None:
        super().__init__(encoder)
        self._reader = reader
        self._connection = reader.connection
        self._known: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())

    @property
    def name(self) -> str:
        """The index's own name, also where it was opened by an alias."""
        return self._reader.name

    @property
    def identity(self) -> Identity:
        """What made the stored vectors, and how they are kept."""
        return self._reader.identity

    def probe(self) -> Capabilities:
        """What the cluster says of its health, its version and its licence."""
        self._check_open()
        return probe(self._connection)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order, as they are now; unknown ids are left out."""
        self._check_open()
        return self._reader.get(check_ids(ids))

    def embeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """The stored embeddings of these documents, in this order; unknown ids are left out.

        Token vectors are as the codec kept them; they are read only if they are asked for. Sparse weights have
        9 significant bits. A document that was replaced, and not yet shown to searches, is left out.
        """
        self._check_open()
        return self._reader.embeddings(check_ids(ids), check_heads(heads))

    def count(self, filter: AnyFilter | None = None) -> int:
        """How many documents there are, or match."""
        self._check_open()
        plan = self._plan(filter)
        if plan.check is None:
            return self._reader.count(plan.query)
        return sum(len(hits) for hits in self._reader.matching(plan))

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, in no particular order, in bounded memory.

        With embeddings it gives pairs of a document and its output of length 1, the token vectors as
        the codec kept them.
        """
        self._check_open()
        plan = self._plan(filter)
        return self._reader.scan_embeddings(plan) if with_embeddings else self._reader.scan(plan)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """The best k documents of each signal, in one request; see `HybridIndex.candidates`.

        Raises:
            ValueError: If `k` is over 10,000, or a native filter names a field that the index has not.
        """
        self._check_open()
        self._check_model()
        check_query(query)
        check_bm25(text, self.identity.bm25, self.name)
        return self._reader.candidates(query, k, self._plan(filter), text)

    def score(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Exact scores (of what is kept), on the heads that `query` has; unknown ids are left out."""
        self._check_open()
        self._check_model()
        check_query(query)
        check_bm25(text, self.identity.bm25, self.name)
        return self._reader.score(query, check_ids(ids), text)

    def close(self) -> None:
        """Ends the connection, unless the client is the user's own; any further call raises `ValueError`."""
        if not self._closed and not self._inherited:  # else a forked process, whose parent goes on with it
            self._closed = True
            self._connection.close()

    def _record(self, identity: Identity) -> None:
        lifecycle.record(self._connection, self.name, identity)
        self._reader = replace(self._reader, identity=identity)

    def _plan(self, filter: AnyFilter | None) -> Plan:
        """The filter compiled; a native one names only fields that there are: Elasticsearch takes any."""
        plan = compile_filter(filter, self._reader.layout.field("facets"))
        if isinstance(filter, dict):
            try:
                check_fields(filter, *self._known)
            except ValueError:
                self._known = lifecycle.searchable_fields(self._connection, self.name)
                check_fields(filter, *self._known)
        return plan
