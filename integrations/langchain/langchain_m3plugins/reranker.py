"""Reranking of LangChain documents."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field

from langchain_m3plugins.fields import RerankerFields
from m3plugins.fusion import ranks


class M3Reranker(RerankerFields, BaseDocumentCompressor):
    """Keeps the documents that score best with the query, best first; equal ones stay in their order.

    What scores them are the three heads of an M3 model, or any reranker of m3plugins. What comes back are
    copies with the score, a plain float, in `metadata["relevance_score"]`.

    Example:
        >>> M3Reranker(model="m3-mini", top_n=5)
        M3Reranker(model='m3-mini', encoder_kwargs={}, weights=None, top_n=5)
    """

    top_n: int | None = Field(default=3, ge=1)
    """The most documents to keep; None keeps all."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Returns the best `top_n` documents.

        Args:
            documents: Any LangChain documents; `page_content` is what is scored.
            query: The question.
            callbacks: Not used: a reranker starts no run.
        """
        scores = self.reranker.score(query, [document.page_content for document in documents]).tolist()
        places = ranks(scores)
        order = sorted(range(len(documents)), key=lambda i: places[i])
        return [_scored(documents[i], scores[i]) for i in order[: self.top_n]]


def _scored(document: Document, score: float) -> Document:
    metadata = {**copy.deepcopy(document.metadata), "relevance_score": score}
    return document.model_copy(update={"metadata": metadata})
