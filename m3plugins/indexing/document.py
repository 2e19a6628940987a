"""What is indexed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from m3plugins.encoding.text import check_unicode, slabs

_INTEGER_BITS = 4096
_PATH = 80
"""Most characters of the path of a metadata value in an error."""


class Digest(NamedTuple):
    """What a document is compared with the stored one by: 32 hex digits each.

    Attributes:
        content: Changes with what is encoded (and the caller's embeddings, if there are any).
        attributes: Changes with the metadata or the parent's id.
    """

    content: str
    attributes: str


@dataclass(frozen=True)
class Heading:
    """A heading in a text.

    Attributes:
        start: Where its line starts in the text, in characters.
        end: Where it ends, so that its section's own text begins there.
        text: The heading, without markup.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text to index, under an id of the caller's.

    Attributes:
        id: Unique key; indexing the same id again replaces the document.
        text: The body.
        metadata: JSON values by field name, for filters and for the reader.
        title: Encoded ahead of the text where there is one.
        parent_id: Id of the document that this one is a passage of.
        headings: Of the text, in order; passages do not run over them and know theirs. Not stored.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    parent_id: str | None = None
    headings: tuple[Heading, ...] = ()

    @property
    def content(self) -> str:
        """What is encoded: title and text."""
        return f"{self.title}\n{self.text}".strip() if self.title else self.text.strip()  # a text may be large

    def digest(self, embedding_digest: str = "") -> Digest:
        """Hashes of the content and of the attributes. The document must pass `check`.

        Args:
            embedding_digest: Of the caller's embedding, where the encoder did not make it.
        """
        return Digest(
            content=_hash_of_texts([self.title, self.text, embedding_digest]),
            attributes=_hash([dict(self.metadata), self.parent_id]),
        )

    def check(self) -> None:
        """Refuses what no engine could keep and give back unchanged.

        Raises:
            ValueError: If the id is empty, a string is not valid Unicode or not a string at all, or the
                metadata is not JSON with string keys and finite numbers, or a heading is not in the text.
        """
        for name in ("id", "text", "title", "parent_id"):
            value = getattr(self, name)
            if value is None and name == "parent_id":
                continue
            if not isinstance(value, str):
                msg = f"{name} must be a string, got {type(value).__name__}"
                raise ValueError(msg)
            check_unicode(name, value)
        if not self.id:
            msg = "id must not be empty"
            raise ValueError(msg)
        if not isinstance(self.metadata, Mapping):
            msg = f"metadata must be a mapping of field names to JSON values, got {type(self.metadata).__name__}"
            raise ValueError(msg)
        _check_json("metadata", self.metadata)
        position = 0
        for heading in self.headings:
            if not position <= heading.start <= heading.end <= len(self.text):
                msg = f"headings must be in the text and in order, got {heading} after {position} of {len(self.text)}"
                raise ValueError(msg)
            position = heading.end


def copied(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of metadata, which must pass `Document.check`, that no change of the original reaches, nested ones too."""
    return {key: _copied(value) for key, value in metadata.items()}


def detached(document: Document) -> Document:
    """The document with metadata of its own: what others do to theirs does not reach it."""
    return replace(document, metadata=copied(document.metadata))


@dataclass(frozen=True)
class Candidate:
    """A document that one head proposes.

    Attributes:
        id: The document's id.
        score: That head's score.
    """

    id: str
    score: float


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return copied(value)
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _hash(fields: list[Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _hash_of_texts(texts: list[str]) -> str:
    """Hashes as `_hash` does, without copies of large texts: a text in JSON is its parts in JSON."""
    hasher = hashlib.blake2b(b"[", digest_size=16)
    for position, text in enumerate(texts):
        hasher.update(b', "' if position else b'"')
        for slab in slabs(text):
            hasher.update(json.dumps(slab, ensure_ascii=False)[1:-1].encode())
        hasher.update(b'"')
    hasher.update(b"]")
    return hasher.hexdigest()


def _check_json(path: str, value: object, depth: int = 0) -> None:
    """Raises ValueError unless `value` survives JSON unchanged."""
    if depth > 64:
        msg = f"{path} must not nest deeper than 64 levels"
        raise ValueError(msg)
    if isinstance(value, str):
        check_unicode(path, value)
    elif isinstance(value, dict) or (isinstance(value, Mapping) and not depth):
        for key, item in value.items():
            if not isinstance(key, str):
                msg = f"{path} must have string keys, got {key!r:.80}"
                raise ValueError(msg)
            check_unicode(f"{path} key", key)
            _check_json(f"{path}.{key}"[:_PATH], item, depth + 1)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check_json(f"{path}[{position}]", item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        msg = f"{path} must be a finite number, got {value}"
        raise ValueError(msg)
    elif isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        msg = f"{path} must be an integer of at most {_INTEGER_BITS} bits, got one of {value.bit_length()}"
        raise ValueError(msg)
    elif value is not None and not isinstance(value, (bool, int, float)):
        msg = f"{path} must be JSON (string, number, boolean, null, list, object), got {type(value).__name__}"
        raise ValueError(msg)
