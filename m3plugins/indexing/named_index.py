"""What the engines' indexes have in common: an end, writing, and another model for one that has a name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.forking import ForkError
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Document
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.index import (
    Ack,
    AnyFilter,
    HybridIndex,
    IndexExistsError,
    IndexNotFoundError,
    UpsertReport,
    check_ids,
    check_one_of,
)
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.metadata import update_metadata
from m3plugins.indexing.passages import check_not_embedded, ingest_passages, remove_documents
from m3plugins.indexing.reembed import ReembedReport, reembed
from m3plugins.indexing.upsert import ingest
from m3plugins.indexing.verifying import check_documents
from m3plugins.indexing.writing import Writer

Index = TypeVar("Index", bound=HybridIndex)

_ATTEMPTS = 3
"""How often to look again for an index that is there when it is made and gone when it is opened."""


class EngineIndex(HybridIndex):
    """A `HybridIndex` that is open until it is closed, in the process that opened it.

    Args:
        encoder: Encodes the documents, and the queries.
    """

    _reopen: ClassVar[str]
    """What to do about an index that is closed."""

    _forkable: ClassVar[bool] = False
    """Whether forked processes may use it: connections cannot be shared with them."""

    def __init__(self, encoder: M3Encoder) -> None:
        self._encoder = encoder
        self._closed = False
        self._process = os.getpid()
        self._is_verified = False

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""
        return self._encoder

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

    def verify_model(self) -> None:
        """Compares what the encoder does with what the model that made the index did; loads it, once.

        An index of an older version, which records nothing to compare with, is brought up to date: some of its
        documents are encoded again and compared with what is stored, then what the model does is recorded.

        Raises:
            ModelMismatchError: If the vectors are another model's.
        """
        if self._is_verified:
            return
        name = str(getattr(self, "name", type(self).__name__))
        self.identity.check_probes(self.encoder, name)
        if self.identity.probes is None:
            check_documents(self, name)
            upgraded = self.identity.upgraded(self.encoder)
            try:
                self._record(upgraded)
            except RuntimeError as err:  # of the engine: whoever may write documents need not have a right to more
                warnings.warn(
                    f"index {name!r} could not be brought up to date ({err}); it goes on as it is", stacklevel=4
                )
        self._is_verified = True

    def _check_model(self) -> None:
        """What `verify_model` does, unless that would load the model, or write."""
        if not self._is_verified and self.encoder.is_loaded and self.identity.probes is not None:
            self.verify_model()

    def _record(self, identity: Any) -> None:
        """Stores what made the index anew, in one step, and goes by it from now on."""
        raise NotImplementedError


class WritableIndex(EngineIndex):
    """One that writes through its `writer`; engines add what reads."""

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents, streamed; see `HybridIndex.upsert`.

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
        """Replaces the metadata of stored documents, without encoding them; see `HybridIndex.update_metadata`."""
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
        if filter is not None:
            with self._deleting():
                return self._remove_matching(filter)
        doomed = check_ids(ids or ()) if parent_id is None else [parent_id]
        if self.passages is not None:
            with self.writer.holding(doomed), self._deleting():
                return remove_documents(doomed, self.writer)
        with self._deleting():
            return self.writer.remove(doomed if parent_id is None else list(self.writer.passages_of(doomed)))

    def _remove_matching(self, filter: AnyFilter) -> int:
        """Deletes what matches; returns how many documents there were."""
        raise NotImplementedError

    def _deleting(self) -> AbstractContextManager[object]:
        """What one deletion is done in."""
        return self._writing()

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """Flushes at the end, whatever ends it."""
        self._check_open()
        try:
            yield self.writer
        except BaseException:
            with suppress(Exception):  # what stopped it is the error to tell
                self.writer.flush()
            raise
        self.writer.flush()


@dataclass(frozen=True)
class Reembedding(Generic[Index]):
    """What `NamedIndex.reembed` made.

    Attributes:
        index: The new index, open.
        report: What was done; nothing failed.
    """

    index: Index
    report: ReembedReport


class NamedIndex(WritableIndex):
    """An index of ours that an engine keeps under a name, at which aliases may point."""

    @property
    def name(self) -> str:
        """The index's own name, also where it was opened by an alias."""
        raise NotImplementedError

    def _checked(self, asked: Identity, given: Collection[str]) -> Self:
        """The index, or, where an option that was given is not the one that it has, an error; see `check_options`."""
        try:
            self.identity.check_options(asked, given, self.name)
        except BaseException:
            self.close()
            raise
        return self

    def describe(self) -> IndexInfo:
        """What made the index, how it keeps documents, and how many."""
        raise NotImplementedError

    def reembed(
        self, encoder: M3Encoder, *, into: str, on_ack: Ack | None = None, sample: int = 32
    ) -> Reembedding[Self]:
        """Copies all documents into a second index of the same options, encoded by another encoder, and verifies it.

        This index stays as it is and goes on answering; `swap` on the new one then moves an alias. A run
        that was interrupted, or failed, goes on where it ended. Writes to this index meanwhile are followed.

        Args:
            encoder: Of the new index.
            into: Name of the new index; one that is there must be of this encoder and of this index's options.
            on_ack: Called with the ids that are stored in the new index.
            sample: How many documents to encode once more, and compare with what is stored.

        Raises:
            ValueError: If `into` is this index, one with other options, or one that an alias points at.
            ModelMismatchError: If `into` is an index of another model.
            ReembedError: If documents could not be stored, or the new index is not what this one is.
        """
        self._check_open()
        target = self._twin(encoder, into)
        try:
            if aliases := target._aliases():
                msg = f"the alias {', '.join(aliases)} points at {into!r}, its changes would be lost; name a new one"
                raise ValueError(msg)
            target.verify_model()
            self._shown().flush()
            with target._writing():
                report = reembed(self, target, target._shown(), codec=self.identity.codec, on_ack=on_ack, sample=sample)
        except BaseException:
            target.close()
            raise
        return Reembedding(target, report)

    def drop(self) -> None:
        """Deletes the index and all in it, and closes it.

        Raises:
            ValueError: If an alias points at it.
        """
        self._check_open()
        check_no_alias(self.name, self._aliases())
        self._drop()
        self.close()

    def _twin(self, encoder: M3Encoder, name: str) -> Self:
        """An index with the options of this one and another encoder, made or opened."""
        identity = self.identity.of_another(encoder)
        try:
            twin = self._open_beside(name, encoder)
        except IndexNotFoundError:
            return self._create_beside(name, encoder, identity)
        if twin.name == self.name or twin.identity.of_another(encoder) != identity:
            twin.close()
            what = "this index" if twin.name == self.name else f"an index with other options than {self.name!r}"
            msg = f"into must name a new index, {name!r} is {what}"
            raise ValueError(msg)
        return twin

    def _open_beside(self, name: str, encoder: M3Encoder) -> Self:
        """Opens another index in the same place."""
        raise NotImplementedError

    def _create_beside(self, name: str, encoder: M3Encoder, identity: Any) -> Self:
        """Makes another index in the same place, of this identity."""
        raise NotImplementedError

    def _shown(self) -> Writer:
        """A writer whose `flush` shows all that was written to whoever searches."""
        return self.writer

    def _aliases(self) -> list[str]:
        """What points at the index."""
        raise NotImplementedError

    def _drop(self) -> None:
        """Deletes it."""
        raise NotImplementedError


def check_no_alias(name: str, aliases: Sequence[str]) -> None:
    """Refuses to drop an index that others find by an alias.

    Raises:
        ValueError: If one points at it.
    """
    if aliases:
        msg = f"the alias {', '.join(aliases)} points at {name!r}; swap it to another index first"
        raise ValueError(msg)


def opened_or_created(open: Callable[[], Index], create: Callable[[], Index]) -> Index:
    """An index that is opened if it is there, and made otherwise; where others make it meanwhile, theirs is opened.

    Args:
        open: Opens it, or raises `IndexNotFoundError`.
        create: Makes it, or raises `IndexExistsError`.
    """
    for _ in range(_ATTEMPTS):
        with suppress(IndexNotFoundError):
            return open()
        with suppress(IndexExistsError):
            return create()
    return open()


def check_bm25(text: str | None, bm25: object, name: str) -> None:
    """Refuses a text for BM25 where an index has none.

    Raises:
        ValueError: If it has none.
    """
    if text is not None and bm25 is None:
        msg = (
            f"index {name!r} has no BM25; leave its weight at 0, "
            'or make the index with bm25="standard" and index the documents again'
        )
        raise ValueError(msg)
