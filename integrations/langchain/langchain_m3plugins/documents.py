"""Documents of m3plugins as LangChain's, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any
from uuid import uuid4

from langchain_core.documents import Document

from m3plugins import Document as CoreDocument
from m3plugins import Hit


def to_core(
    texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[CoreDocument]:
    """Makes documents of texts; where there is no id, a random one.

    Raises:
        ValueError: If there are fewer or more metadatas or ids than texts.
    """
    texts = list(texts)
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            msg = f"there must be as many {name} as texts, got {len(given)} {name} and {len(texts)} texts"
            raise ValueError(msg)
    rows = zip(texts, metadatas or repeat({}), ids or repeat(None), strict=False)
    return [
        CoreDocument(id=str(uuid4()) if key is None else key, text=text, metadata=metadata)
        for text, metadata, key in rows
    ]


def to_langchain(document: CoreDocument) -> Document:
    """Converts a document, with metadata of its own: no change to them reaches the index."""
    return Document(page_content=document.text, metadata=copy.deepcopy(dict(document.metadata)), id=document.id)


def to_documents(hits: Iterable[Hit]) -> list[Document]:
    """Returns the documents of hits, as they were added."""
    return [to_langchain(hit.document) for hit in hits]


def to_scored(hits: Iterable[Hit]) -> list[tuple[Document, float]]:
    """Returns the documents of hits, each with its score."""
    return [(to_langchain(hit.document), hit.score) for hit in hits]


def with_scores(hit: Hit, key: str) -> Document:
    """Returns the document of a hit, with its scores, title and parent under one key of the metadata.

    What the stored metadata have under that key is then under `own` in it.
    """
    document = to_langchain(hit.document)
    found: dict[str, Any] = {"score": hit.score, **vars(hit.scores)}
    found |= {"title": hit.document.title or None, "parent_id": hit.document.parent_id}
    own = {"own": document.metadata[key]} if key in document.metadata else {}
    document.metadata[key] = {name: value for name, value in found.items() if value is not None} | own
    return document
