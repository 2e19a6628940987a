"""The ports that a `HybridIndex`, and a stream of documents, write through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Digest, Document
from m3plugins.indexing.reader import Plan
from m3plugins.indexing.report import FailedDocument

REPLACED = "it was replaced or deleted meanwhile; index it again"
"""Reason for which new metadata could not be stored."""

Failures = Iterable[FailedDocument] | None


@dataclass(frozen=True)
class EmbeddedBatch:
    """Documents to write, in columns.

    Attributes:
        documents: Checked, of distinct ids.
        digests: `Document.digest()` of each, to be stored beside it.
        embeddings: Their embeddings, all heads.
    """

    documents: list[Document]
    digests: list[Digest]
    embeddings: M3Output


def is_current(stored: Digest | None, new: Digest, expected: Digest | None) -> bool:
    """Tells whether a document may still be given new metadata and a new parent.

    Args:
        stored: The digest of the stored document; None if there is none.
        new: The digest to be stored.
        expected: The digest of the document that the change was made of; None if only its content matters.
    """
    return stored is not None and (stored.content == new.content if expected is None else stored == expected)


class Sink(ABC):
    """Takes a stream of documents. `write` and `annotate` return the documents that could not be stored.

    An exception ends the stream: what was acknowledged is stored, the rest is not promised.
    """

    @abstractmethod
    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns the digests of those of the given ids that are stored."""

    @abstractmethod
    def write(self, batch: EmbeddedBatch) -> Failures:
        """Stores documents."""

    @abstractmethod
    def annotate(self, documents: Sequence[Document], digests: Sequence[Digest]) -> Failures:
        """Stores new metadata and parents of documents whose content is still that of `digests`.

        Compares and writes in one; what is not as expected fails with the reason `REPLACED`.
        """


class Writer(Sink, Generic[Plan]):
    """Writes to one index of an engine; safe to share among threads."""

    @abstractmethod
    def check(self, document: Document) -> None:
        """Refuses a document that the engine cannot keep.

        Raises:
            ValueError: If it cannot.
        """

    @abstractmethod
    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> Failures:
        """Stores new metadata and parents of documents that are still what is expected, as a `Sink` does.

        Args:
            documents: With the new metadata and parents.
            digests: Of these.
            expected: The digests of the documents that these were made of; by default only their content must be
                that of `digests`.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the stored documents of these ids, as a `Reader` does, and as patiently as the writer writes."""

    @abstractmethod
    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """Returns the parent's id, by the id of each stored document that has one of these parents."""

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""

    @abstractmethod
    def remove_matching(self, plan: Plan) -> int:
        """Deletes the documents that match; returns how many there were."""

    @abstractmethod
    def deletion(self) -> AbstractContextManager[object]:
        """Keeps this process' other writers out of one deletion, where they would meet, and ends it."""

    @abstractmethod
    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        """Keeps this process' other threads from replacing these documents, each with all of its passages."""

    @abstractmethod
    def flush(self) -> None:
        """Makes what was written searchable, and fast to search, wherever that takes a step of its own."""

    def show(self) -> None:
        """Makes what was written searchable even where `flush` leaves that to the engine."""
        self.flush()

    @abstractmethod
    def drop(self) -> None:
        """Deletes the index and all in it.

        Raises:
            ValueError: If it is somebody else's.
        """


W = TypeVar("W", bound=Writer[Any])


@contextmanager
def flushed(writer: W) -> Iterator[W]:
    """Flushes a writer at the end, whatever ends it."""
    try:
        yield writer
    except BaseException:
        with suppress(Exception):  # what stopped it is the error to tell
            writer.flush()
        raise
    writer.flush()
