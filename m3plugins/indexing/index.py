"""`HybridIndex`: documents with their three representations, in some engine."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, ClassVar, Literal, overload

from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.forking import ForkError
from m3plugins.encoding.output import HEADS, M3Output, check_heads
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.arguments import check_ids, check_one_of
from m3plugins.indexing.document import Candidate, Document
from m3plugins.indexing.filters import AnyFilter
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.metadata import update_metadata
from m3plugins.indexing.passages import check_not_embedded, ingest_passages, remove_documents
from m3plugins.indexing.reader import Reader
from m3plugins.indexing.report import Ack, UpsertReport
from m3plugins.indexing.upsert import ingest
from m3plugins.indexing.verifying import check_documents
from m3plugins.indexing.writer import Writer, flushed
from m3plugins.scoring.heads import HeadScores, Signal, check_query

_ASYNC_PAGE = 64


class HybridIndex:
    """Documents with their three representations, in some engine: every verb, over its `Reader` and its `Writer`.

    Engines derive from it to say how an index is made and opened. All methods are safe to call from several threads:
    of two that write one document at the same time, one is later, and what it wrote is there as a whole. What is read
    is the caller's own: changing it changes no index.

    An index made with `passages` stores the passages of each document, under the ids `{id}#0`, `{id}#1`, ...
    and with `parent_id` the document's id. Then `upsert`, `delete(ids)` and `update_metadata` speak of
    documents, all that reads speaks of passages.

    Args:
        reader: What reads the engine's index.
        writer: What writes to it; None where the documents are somebody else's to write.
        encoder: What encodes the documents and must encode the queries.
        identity: What made the stored vectors.
    """

    _reopen: ClassVar[str]
    """What to do about an index that is closed."""

    _read_only: ClassVar[str] = "write them as they were written before"
    """What to do where there is no writer."""

    _forkable: ClassVar[bool] = False
    """Whether forked processes may use it: connections cannot be shared with them."""

    def __init__(
        self, reader: Reader[Any], writer: Writer[Any] | None, *, encoder: M3Encoder, identity: Identity
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = encoder
        self._identity = identity
        self._closed = False
        self._process = os.getpid()
        self._is_verified = False

    @property
    def name(self) -> str:
        """What the engine knows the index by, also where it was opened by an alias."""
        return self._reader.name

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""
        return self._encoder

    @property
    def identity(self) -> Identity:
        """What made the stored vectors."""
        return self._identity

    @property
    def passages(self) -> Passages | None:
        """How documents are cut into what is stored; None if they are stored as they are."""
        return self.identity.cut

    @property
    def reader(self) -> Reader[Any]:
        """What reads the engine's index: for those who have checked what they ask for."""
        return self._reader

    @property
    def writer(self) -> Writer[Any]:
        """What stores embedded documents as they come: for `copy`, which encodes nothing.

        Raises:
            ValueError: If the documents are somebody else's to write.
        """
        if self._writer is None:
            msg = f"the documents of {self.name!r} are their owner's: {self._read_only}"
            raise ValueError(msg)
        return self._writer

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

        Raises:
            ValueError: If the encoder cuts documents at another length than the index's, or the
                embeddings are not as many, or not as wide, as they must be.
        """
        with self._writing() as writer:
            self.identity.check_length(self.encoder)
            self.verify_model()
            if self.passages is None:
                return ingest(documents, embeddings, encoder=self.encoder, writer=writer, on_ack=on_ack)
            check_not_embedded(embeddings)
            return ingest_passages(documents, self.passages, encoder=self.encoder, writer=writer, on_ack=on_ack)

    def update_metadata(self, metadata: Mapping[str, Mapping[str, Any]], on_ack: Ack | None = None) -> UpsertReport:
        """Replaces the metadata of stored documents, by id, without encoding them; unknown ids fail."""
        with self._writing() as writer:
            return update_metadata(metadata, writer=writer, passages=self.passages is not None, on_ack=on_ack)

    def delete(
        self,
        ids: Sequence[str] | None = None,
        filter: AnyFilter | None = None,
        *,
        parent_id: str | None = None,
    ) -> int:
        """Deletes by ids, by filter or by parent (exactly one of them); returns how many stored documents went."""
        self._check_open()
        check_one_of(ids=ids, filter=filter, parent_id=parent_id)
        writer = self.writer
        if filter is not None:
            plan = self._reader.compile(filter)
            with writer.deletion():
                return writer.remove_matching(plan)
        doomed = check_ids(ids or ()) if parent_id is None else [parent_id]
        if self.passages is not None:
            with writer.holding(doomed), writer.deletion():
                return remove_documents(doomed, writer)
        with writer.deletion():
            return writer.remove(doomed if parent_id is None else list(writer.passages_of(doomed)))

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, in this order, as they are now; unknown ids are left out."""
        self._check_open()
        return self._reader.get(check_ids(ids))

    def embeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """Returns the stored embeddings of these documents, in this order; unknown ids are left out.

        Args:
            ids: Of documents.
            heads: Which to read.

        Returns:
            Outputs of length 1, as `scan` gives them.

        Raises:
            ValueError: If a head is unknown.
        """
        self._check_open()
        return self._reader.embeddings(check_ids(ids), check_heads(heads))

    def count(self, filter: AnyFilter | None = None) -> int:
        """Counts the documents, or those that match."""
        self._check_open()
        return self._reader.count(self._reader.compile(filter))

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
        """Yields every document that matches, in no particular order, in bounded memory.

        With embeddings it gives pairs of a document and its output of length 1, the token vectors as the codec kept
        them.

        Raises:
            BrokenDocumentsError: At the end, if some cannot be read as they were stored.
        """
        self._check_open()
        plan = self._reader.compile(filter)
        return self._reader.scan_embeddings(plan) if with_embeddings else self._reader.scan(plan)

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,
        *,
        text: str | None = None,
    ) -> dict[Signal, list[Candidate]]:
        """Returns the best k documents of the dense and of the sparse head (those that the query has).

        Args:
            query: The query's embeddings, of length 1.
            k: Documents a signal.
            filter: Only documents that match.
            text: The query itself, for a list "bm25" as well.

        Raises:
            ValueError: If there is a text, and the index has no BM25.
        """
        self._check_asked(query, text)
        return self._reader.candidates(query, k, self._reader.compile(filter), text)

    def score(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Returns exact scores (of what the codec kept), on the heads that the query has; unknown ids are left out.

        Args:
            query: The query's embeddings, of length 1.
            ids: Of documents.
            text: The query itself, for the BM25 score as well.

        Raises:
            ValueError: If there is a text, and the index has no BM25.
        """
        wanted = check_ids(ids)
        self._check_asked(query, text)
        return self._reader.score(query, wanted, text)

    def verify_model(self) -> None:
        """Compares what the encoder does with what the model that made the index did; loads it, once.

        An index of an older version, which records nothing to compare with, is brought up to date: some of its
        documents are encoded again and compared with what is stored, then what the model does is recorded.

        Raises:
            ModelMismatchError: If the vectors are another model's.
        """
        if self._is_verified:
            return
        self.identity.check_probes(self.encoder, self.name)
        if self.identity.probes is None:
            check_documents(self._reader, self.encoder, self.name)
            upgraded = self.identity.upgraded(self.encoder)
            try:
                self._record(upgraded)
            except RuntimeError as err:  # of the engine: whoever may write documents need not have a right to more
                warnings.warn(
                    f"index {self.name!r} could not be brought up to date ({err}); it goes on as it is", stacklevel=4
                )
        self._is_verified = True

    def drop(self) -> None:
        """Deletes the index and all in it, and closes it.

        Raises:
            ValueError: If it is somebody else's.
        """
        self._check_open()
        self.writer.drop()
        self.close()

    def close(self) -> None:
        """Frees what the index holds; any further call raises `ValueError`."""
        if not self._closed and (self._forkable or not self._inherited):  # else the parent goes on with it
            self._closed = True
            self._reader.close()

    def __enter__(self) -> Self:
        """Returns the index itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self.close()

    async def aupsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Runs `upsert` in a thread, which also reads `documents` and calls `on_ack`."""
        return await asyncio.to_thread(self.upsert, documents, embeddings, on_ack)

    async def aupdate_metadata(
        self, metadata: Mapping[str, Mapping[str, Any]], on_ack: Ack | None = None
    ) -> UpsertReport:
        """Runs `update_metadata` in a thread."""
        return await asyncio.to_thread(self.update_metadata, metadata, on_ack)

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        filter: AnyFilter | None = None,
        *,
        parent_id: str | None = None,
    ) -> int:
        """Runs `delete` in a thread."""
        return await asyncio.to_thread(self.delete, ids, filter, parent_id=parent_id)

    async def aget(self, ids: Sequence[str]) -> list[Document]:
        """Runs `get` in a thread."""
        return await asyncio.to_thread(self.get, ids)

    async def aembeddings(self, ids: Sequence[str], heads: Iterable[str] = HEADS) -> dict[str, M3Output]:
        """Runs `embeddings` in a thread."""
        return await asyncio.to_thread(self.embeddings, ids, heads)

    async def acount(self, filter: AnyFilter | None = None) -> int:
        """Runs `count` in a thread."""
        return await asyncio.to_thread(self.count, filter)

    async def ascan(self, filter: AnyFilter | None = None) -> AsyncIterator[Document]:
        """Runs `scan`, page by page in a thread."""
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
        """Runs `candidates` in a thread."""
        return await asyncio.to_thread(self.candidates, query, k, filter, text=text)

    async def ascore(self, query: M3Output, ids: Sequence[str], *, text: str | None = None) -> dict[str, HeadScores]:
        """Runs `score` in a thread."""
        return await asyncio.to_thread(self.score, query, ids, text=text)

    @property
    def _inherited(self) -> bool:
        """Whether this is a forked process, and the index its parent's."""
        return self._process != os.getpid()

    def _check_open(self) -> None:
        if self._closed:
            msg = f"this index is closed; {self._reopen}"
            raise ValueError(msg)
        if self._inherited and not self._forkable:
            msg = (
                "this index was opened before this process was forked, and its connection is the parent's; "
                f"{self._reopen} in this process"
            )
            raise ForkError(msg)

    def _check_asked(self, query: M3Output, text: str | None) -> None:
        """Refuses to rank by what is not there: a closed index, another model, a broken query, no BM25."""
        self._check_open()
        if self.encoder.is_loaded and self.identity.probes is not None:  # else it would load the model, or write
            self.verify_model()
        check_query(query)
        if text is not None and (fault := self._reader.bm25_fault):
            raise ValueError(fault)

    def _record(self, identity: Identity) -> None:
        """Goes by this identity from now on; engines that store one store it first, in one step."""
        self._identity = identity

    def _writing(self) -> AbstractContextManager[Writer[Any]]:
        """Returns the writer to whoever writes, and flushes it at the end."""
        self._check_open()
        return flushed(self.writer)
