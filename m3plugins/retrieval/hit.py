"""A document found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m3plugins.indexing.document import Document
from m3plugins.scoring.heads import HeadScores


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A document found, best first.

    Attributes:
        document: The stored document.
        score: What the hits are ordered by: the fused score, or the reranker's where there is one.
        scores: The exact score of each head that counted.
    """

    document: Document
    score: float
    scores: HeadScores

    @property
    def id(self) -> str:
        """The document's id."""
        return self.document.id

    @property
    def text(self) -> str:
        """The document's text."""
        return self.document.text

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The document's metadata."""
        return self.document.metadata
