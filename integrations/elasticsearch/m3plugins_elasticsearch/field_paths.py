"""Paths of fields in a document: in an index of ours, and in one that someone else writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from m3plugins import Document

OURS = "m3"
"""The object that holds our fields in a document of someone else's."""


@dataclass(frozen=True)
class FieldPaths:
    """The paths of a document's fields; by default those of an index of ours.

    Attributes:
        prefix: Ahead of our fields' names; "" in an index of ours.
        text: Paths of the text, joined by newlines if there are several.
        title: Path of the title; "" if there is none.
    """

    prefix: str = ""
    text: tuple[str, ...] = ("text",)
    title: str = "title"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> FieldPaths:
        """Makes the paths of documents that someone else writes, whose text and title are at these."""
        return cls(f"{OURS}.", tuple(fields["text"]), fields["title"])

    @property
    def source(self) -> dict[str, list[str]]:
        """What a reader asks of a document's source, by name: from 9.2 on vectors are left out of it otherwise."""
        if self.prefix:
            return {"includes": ["*"], "excludes": [self.prefix.rstrip(".")]}
        return {"includes": ["text", "title", "parent_id", "metadata"]}

    def field(self, name: str) -> str:
        """The path of one of our fields."""
        return self.prefix + name

    def document(self, id: str, source: Mapping[str, Any], *, strict: bool = False) -> Document:
        """The document that a source holds.

        Args:
            id: Its id.
            source: What its owner wrote.
            strict: Whether to refuse what should be text and is none, instead of showing it as JSON.

        Raises:
            ValueError: If it is strict, and something should be text and is none, or if it is none of ours.
        """
        if not self.prefix:
            text, title, parent_id = (source.get(name) for name in ("text", "title", "parent_id"))
            if not isinstance(text, str) or not isinstance(title, str) or not isinstance(parent_id, str | None):
                msg = f"text, title and parent_id must be strings, got {text!r:.40}, {title!r:.40}, {parent_id!r:.40}"
                raise ValueError(msg)
            return Document(id=id, text=text, title=title, parent_id=parent_id, metadata=self.metadata(source))
        text = "\n".join(filter(None, (_text(path, source, strict) for path in self.text)))
        title = _text(self.title, source, strict) if self.title else ""
        return Document(id=id, text=text, title=title, metadata=self.metadata(source))

    def metadata(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        """The metadata that a source holds: of someone else's, all but the text and the title."""
        if not self.prefix:
            metadata = source.get("metadata")
            if not isinstance(metadata, Mapping):
                msg = f"metadata must be an object, got {metadata!r:.40}"
                raise ValueError(msg)
            return metadata
        left = {name: value for name, value in source.items() if name != self.prefix.rstrip(".")}
        for path in (*self.text, self.title):
            left = _without(path, left)
        return left


def _text(path: str, source: Mapping[str, Any], strict: bool) -> str:
    """The values at a path, one a line."""
    lines = []
    for value in _values(path, source):
        if strict and not isinstance(value, str | int | float):
            msg = f"the field {path!r} must hold text, got {type(value).__name__}; name another field"
            raise ValueError(msg)
        lines.append(value if isinstance(value, str) else json.dumps(value))
    return "\n".join(lines)


def _values(path: str, source: Any) -> Iterator[Any]:
    """The values at a path as Elasticsearch finds them: its dots are of names or between objects, lists do not show."""
    if isinstance(source, list):
        for item in source:
            yield from _values(path, item)
    elif not path:
        if source is not None:
            yield source
    elif isinstance(source, Mapping):
        for name, rest in _splits(path):
            yield from _values(rest, source.get(name))


def _without(path: str, source: Any) -> Any:
    """A copy that lacks what is at a path."""
    if isinstance(source, list):
        return [_without(path, item) for item in source]
    if not isinstance(source, Mapping):
        return source
    left = {name: value for name, value in source.items() if name != path}
    return left | {name: _without(rest, left[name]) for name, rest in _splits(path) if name in left}


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """A name that a path begins with, and what is left of the path, in every way."""
    parts = path.split(".")
    for size in range(1, len(parts) + 1):
        yield ".".join(parts[:size]), ".".join(parts[size:])
