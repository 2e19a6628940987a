"""Comparison of a document's text and metadata with those that its vectors were made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from m3plugins import Document
from m3plugins.indexing.document import Digest
from m3plugins_elasticsearch.enricher.feed import Change
from m3plugins_elasticsearch.field_paths import FieldPaths
from m3plugins_elasticsearch.identity import Identity

State = Literal["enriched", "stale", "missing", "orphaned", "dead"]


@dataclass(frozen=True)
class Compared:
    """A change, with its document and what the stored vectors were made of.

    Attributes:
        change: The change.
        document: The document; None if it holds no text that can be encoded.
        fault: The reason why it does not.
        before: Digest of what the stored vectors were made of; None if there are none that could be kept.
    """

    change: Change
    document: Document | None = None
    fault: str = ""
    before: Digest | None = None

    @property
    def state(self) -> State:
        """The state of the document.

        `enriched`: it has the vectors of its text, and can be found by its metadata. `stale`: it has those of another
        text, of other metadata or of another model, or is a copy that has those of another document. `missing`: it has
        none. `orphaned`: it has some of our fields, not all of them. `dead`: it cannot be encoded.
        """
        if self.document is None:
            return "dead"
        if self.change.held != "all":
            return "missing" if self.change.held == "none" else "orphaned"
        return "enriched" if self.before == self.document.digest() else "stale"


def stamp(identity: Identity) -> str:
    """Names the model that made a document's vectors, in the document, which may be copied into an index of another.

    The precision and the backend of the encoder are not in it: they change the last digits.
    """
    return f"{identity.fingerprint}/{identity.codec}/{identity.document_max_length}"


def stamps(identity: Identity) -> frozenset[str]:
    """Returns the `stamp`, and the one of vectors that were made before the index was brought up to date."""
    former = replace(identity, fingerprint=identity.former or identity.fingerprint)
    return frozenset({stamp(identity), stamp(former)})


def compare(change: Change, paths: FieldPaths, models: Collection[str]) -> Compared:
    """Reads a document and what is stored of it.

    A document without the text field, or with null or an empty text in it, is a document of an empty text: it can be
    found by its title and its metadata.

    Args:
        change: A change of the feed.
        paths: The paths of the documents.
        models: The `stamps` of the index.
    """
    if change.fault:
        return Compared(change, fault=change.fault)
    try:
        document = paths.document(change.id, change.source, strict=True)
        document.check()
    except (ValueError, MemoryError, RecursionError) as err:
        return Compared(change, fault=str(err) or repr(err))
    return Compared(change, document, before=_before(change, models))


def _before(change: Change, models: Collection[str]) -> Digest | None:
    """Returns what the vectors were made of; those of a copied document suit its text, and need not be made again."""
    if change.digest is None or change.model not in models:
        return None
    return change.digest if change.owner == change.id else change.digest._replace(attributes="")
