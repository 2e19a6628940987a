"""What an engine does for the roads of `ingest`, `passages` and `update_metadata`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from m3plugins.encoding.output import M3Output
from m3plugins.retrieval.document import Digest, Document
from m3plugins.retrieval.index import FailedDocument

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

    def annotate(self, documents: Sequence[Document], digests: Sequence[Digest]) -> Failures:
        """Stores new metadata and parents of documents whose content is still the one of the digest."""

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The stored documents of these ids."""

    def passages_of(self, parent_ids: Sequence[str]) -> dict[str, str]:
        """The parent's id, by the id of each stored document that has one of these parents."""

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many there were."""

    def flush(self) -> None:
        """Makes what was written searchable, and fast to search, wherever that takes a step of its own."""
