"""What an engine offers: the `HybridIndex` protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS, M3Output
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.document import Candidate, Document
from m3plugins.indexing.filters import Filter
from m3plugins.scoring.heads import HeadScores, Signal

if TYPE_CHECKING:
    from m3plugins.indexing.identity import Identity
    from m3plugins.indexing.writing import Writer

Ack = Callable[[list[str]], None]
"""Called with the ids of documents that are now stored, once each batch is."""

_ASYNC_PAGE = 64
_SHOWN = 5
_SHOWN_ID = 100

AnyFilter = Filter | str | dict[str, Any]
"""The neutral tree, or a filter in the engine's own language (what that is, the engine says)."""


class ModelMismatchError(ValueError):
    """The index holds vectors of another model than the encoder's."""


class IndexNotFoundError(ValueError):
    """There is no index of that name, or none of ours."""


class IndexExistsError(ValueError):
    """There is something of that name already."""


def check_ids(ids: Sequence[str]) -> list[str]:
    """The distinct ids, in their order.

    Raises:
        TypeError: If `ids` is not a sequence of strings.
    """
    if isinstance(ids, str) or not all(isinstance(i, str) for i in ids):
        msg = f"ids must be a list of strings, got {ids!r}"
        raise TypeError(msg)
    return list(dict.fromkeys(ids))


def check_one_of(**selectors: object) -> None:
    """Refuses none or several of the ways to name documents.

    Raises:
        ValueError: If not exactly one is given.
    """
    given = [name for name, value in selectors.items() if value is not None]
    if len(given) != 1:
        msg = f"give exactly one of {', '.join(selectors)}, got {' and '.join(given) or 'none'}"
        raise ValueError(msg)


class FailedDocument(NamedTuple):
    """A document that was not stored.

    Attributes:
        id: The id it came with.
        reason: What was wrong and what to do.
    """

    id: str
    reason: str


@dataclass
class UpsertReport:
    """What became of the documents of one `upsert`.

    Attributes:
        written: Documents encoded and stored.
        unchanged: Documents that were there already, to the letter.
        failed: Documents that were not stored, each with the reason.
        truncated: Documents whose text was cut to the model's maximum length (they are stored whole).
    """

    written: int = 0
    unchanged: int = 0
    failed: list[FailedDocument] = field(default_factory=list)
    truncated: int = 0

    def raise_for_failed(self) -> None:
        """For callers that have no report to give.

        Raises:
            UpsertError: If a document failed.
        """
        if self.failed:
            raise UpsertError(self)


class UpsertError(ValueError):
    """Some documents were not stored; the others were.

    Attributes:
        report: All of both.
    """

    def __init__(self, report: UpsertReport) -> None:
        shown = "; ".join(f"{failed.id!r:.{_SHOWN_ID}}: {failed.reason}" for failed in report.failed[:_SHOWN])
        stored = report.written + report.unchanged
        rest = f"; and {len(report.failed) - _SHOWN} more, in report.failed" if len(report.failed) > _SHOWN else ""
        super().__init__(f"{len(report.failed)} documents were not stored, {stored} were: {shown}{rest}")
        self.report = report


class BrokenDocumentsError(RuntimeError):
    """Some documents cannot be read as they were stored; a scan raises it when it has given all the others.

    Attributes:
        failed: Each of them, with the reason.
    """

    def __init__(self, failed: Sequence[FailedDocument]) -> None:
        shown = "; ".join(f"{broken.id!r:.{_SHOWN_ID}}: {broken.reason}" for broken in failed[:_SHOWN])
        rest = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        super().__init__(f"{len(failed)} documents cannot be read: {shown}{rest}")
        self.failed = list(failed)


@runtime_checkable
class HybridIndex(Protocol):
    """Documents with their three representations, in some engine.

    Engines derive from it, which gives them the async twins. Those whose indexes have names register a class
    that is an `m3plugins.indexing.registry.Engine`, too: it makes, opens, lists, describes and drops them. All
    methods are safe to call from several threads: of two that write one document at the same time, one is later, and
    what it wrote is there as a whole. What is read is the caller's own: changing it changes no index.

    An index made with `passages` stores the passages of each document, under the ids `{id}#0`, `{id}#1`, ...
    and with `parent_id` the document's id. Then `upsert`, `delete(ids)` and `update_metadata` speak of
    documents, all that reads speaks of passages.
    """

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""

    @property
    def identity(self) -> Identity:
        """What made the stored vectors."""

    @property
    def writer(self) -> Writer:
        """What stores embedded documents as they come: for `copy`, which encodes nothing."""

    @property
    def passages(self) -> Passages | None:
        """How documents are cut into what is stored; None if they are stored as they are."""
        return self.identity.cut

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents, streamed; a document of a known id replaces the old one, if anything changed.

        Where only metadata or parent changed, nothing is encoded.

        Args:
            documents: Any iterable. Of two with one id, the later one wins.
            embeddings: The documents' embeddings, in the same order: an `M3Output`, or an iterable of
                outputs of any lengths, with dense vectors of unit length (normalise once more what was
                normalised in bfloat16). Without it the encoder makes them.
            on_ack: Called with the ids of each batch once they are stored or known to be unchanged.
        """

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]], on_ack: Ack | None = None) -> UpsertReport:
        """Replaces the metadata of stored documents, by id, without encoding them; unknown ids fail."""

    def delete(
        self,
        ids: Sequence[str] | None = None,
        filter: AnyFilter | None = None,
        *,
        parent_id: str | None = None,
    ) -> int:
        """Deletes by ids, by filter or by parent (exactly one of them); returns how many stored documents went."""

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""

    def embeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """The stored embeddings of these documents, in this order; unknown ids are left out.

        Args:
            ids: Of documents.
            heads: Which to read.

        Returns:
            Outputs of length 1, as `scan` gives them.

        Raises:
            ValueError: If a head is unknown.
        """

    def count(self, filter: AnyFilter | None = None) -> int:
        """How many documents there are, or match."""

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

        With embeddings it gives pairs of a document and its output of length 1.

        Raises:
            BrokenDocumentsError: At the end, if some cannot be read as they were stored.
        """

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """The best k documents of the dense and of the sparse head (those that `query`, of length 1, has).

        Args:
            query: The query's embeddings.
            k: Documents a signal.
            filter: Only documents that match.
            text: The query itself, for a list "bm25" as well.

        Raises:
            ValueError: If there is a text, and the index has no BM25.
        """

    def score(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Exact scores, on the heads that `query` has, of the given documents; unknown ids are left out.

        Args:
            query: The query's embeddings.
            ids: Of documents.
            text: The query itself, for the BM25 score as well.
        """

    def drop(self) -> None:
        """Deletes the index and all in it."""

    def close(self) -> None:
        """Frees what the index holds; any further call raises `ValueError`."""

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self.close()

    async def aupsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """`upsert` in a thread, which also reads `documents` and calls `on_ack`."""
        return await asyncio.to_thread(self.upsert, documents, embeddings, on_ack)

    async def aupdate_metadata(
        self, metadata: Mapping[str, Mapping[str, Any]], on_ack: Ack | None = None
    ) -> UpsertReport:
        """`update_metadata` in a thread."""
        return await asyncio.to_thread(self.update_metadata, metadata, on_ack)

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        filter: AnyFilter | None = None,
        *,
        parent_id: str | None = None,
    ) -> int:
        """`delete` in a thread."""
        return await asyncio.to_thread(self.delete, ids, filter, parent_id=parent_id)

    async def aget(self, ids: Sequence[str]) -> list[Document]:
        """`get` in a thread."""
        return await asyncio.to_thread(self.get, ids)

    async def aembeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """`embeddings` in a thread."""
        return await asyncio.to_thread(self.embeddings, ids, heads)

    async def acount(self, filter: AnyFilter | None = None) -> int:
        """`count` in a thread."""
        return await asyncio.to_thread(self.count, filter)

    async def ascan(self, filter: AnyFilter | None = None) -> AsyncIterator[Document]:
        """`scan`, page by page in a thread."""
        documents = await asyncio.to_thread(self.scan, filter)
        while page := await asyncio.to_thread(lambda: list(islice(documents, _ASYNC_PAGE))):
            for document in page:
                yield document

    async def acandidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """`candidates` in a thread."""
        return await asyncio.to_thread(self.candidates, query, k, filter, text=text)

    async def ascore(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """`score` in a thread."""
        return await asyncio.to_thread(self.score, query, ids, text=text)
