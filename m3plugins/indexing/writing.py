"""What an engine does for the roads of `ingest`, `passages` and `update_metadata`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Digest, Document
from m3plugins.indexing.index import FailedDocument

REPLACED = "it was replaced or deleted meanwhile; index it again"
"""Why new metadata could not be stored."""

Failures = Iterable[FailedDocument] | None


@dataclass(frozen=True)
class Batch:
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
    """Whether a document may still be given new metadata and a new parent.

    Args:
        stored: The digest of the stored document; None if there is none.
        new: The digest to be stored.
        expected: The digest of the document that the change was made of; None if only its content matters.
    """
    return stored is not None and (stored.content == new.content if expected is None else stored == expected)


class Writer(Protocol):
    """What an engine does for the road. `write` and `annotate` return the documents that they could not store.

    An exception ends the run: what was acknowledged is stored, the rest is not promised.
    """

    def check(self, document: Document) -> None:
        """Raises ValueError for a document that the engine cannot keep."""

    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """The digests of those of the given ids that are stored."""

    def write(self, batch: Batch) -> Failures:
        """Stores documents."""

    def annotate(
        self, documents: Sequence[Document], digests: Sequence[Digest], expected: Sequence[Digest] | None = None
    ) -> Failures:
        """Stores new metadata and parents of documents that are still what is expected: compares and writes in one.

        The others fail with the reason `REPLACED`.

        Args:
            documents: With the new metadata and parents.
            digests: Of these.
            expected: The digests of the documents that these were made of; by default only their content must be
                that of `digests`.
        """

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The stored documents of these ids."""

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each stored document that has one of these parents."""

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""

    def holding(self, ids: Collection[str]) -> AbstractContextManager[None]:
        """Keeps this process' other threads from replacing these documents, each with all of its passages."""

    def flush(self) -> None:
        """Makes what was written searchable, and fast to search, wherever that takes a step of its own."""
