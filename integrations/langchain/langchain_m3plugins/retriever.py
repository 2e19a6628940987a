"""M3's ranking as a LangChain retriever."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import LangSmithRetrieverParams
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field, InstanceOf, SkipValidation

from langchain_m3plugins.batching import BatchedQueries
from langchain_m3plugins.documents import to_documents, with_scores
from langchain_m3plugins.searching import Rerank, check_keywords, search
from m3plugins import HybridRetriever, HybridWeights, M3Encoder
from m3plugins.indexing.filters import AnyFilter

KEYWORDS = ("k", "filter", "weights", "rerank", "score_threshold", "per_parent")


class M3Retriever(BatchedQueries):
    """Retrieves with dense, sparse and multi-vector scores from any `HybridIndex`.

    `invoke`, `ainvoke`, `batch` and `abatch` take `k`, `filter`, `weights`, `rerank`, `score_threshold` and
    `per_parent` as keywords, each in place of the field of that name, also where it is None; any other
    keyword is a TypeError.

    The scores of a hit are in `metadata["m3"]`: `score`, what the documents are ordered by; `dense`, `sparse`,
    `multi_vector` (and `bm25`), those that counted; and the document's `title` and `parent_id`, if it has them, and
    `own`, the field `m3` of its metadata, if it has one.
    The documents are copies.

    Example:
        ```python
        retriever = M3Retriever(retriever=HybridRetriever(index), k=4)
        documents = retriever.invoke("how do I …?", k=2, filter=filters.eq("lang", "en"))
        documents[0].metadata["m3"]["score"]
        ```
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    retriever: InstanceOf[HybridRetriever]
    """Searches the index."""

    k: int = Field(default=4, ge=1)
    """The most documents to return."""

    filter: SkipValidation[AnyFilter | None] = None
    """Only documents whose metadata match: a filter of `m3plugins.indexing.filters`, or one of the engine's own."""

    weights: InstanceOf[HybridWeights] | None = None
    """The weight of each head; None leaves it to `retriever`."""

    rerank: Rerank = None
    """A reranker in place of that of `retriever`, False for none; None leaves it to `retriever`."""

    score_threshold: float | None = None
    """Leave out documents that score less: the raw score, in the range of the weights or of the reranker."""

    per_parent: int | None = Field(default=None, ge=1)
    """The most passages of one parent to return."""

    scores_key: str | None = "m3"
    """The key of the metadata that the scores are put under; None leaves the metadata as they are."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        check_keywords(kwargs, KEYWORDS)
        options = {name: kwargs.get(name, getattr(self, name)) for name in KEYWORDS}
        options["min_score"] = options.pop("score_threshold")
        hits = search(self.retriever, query, **options)
        if self.scores_key is None:
            return to_documents(hits)
        return [with_scores(hit, self.scores_key) for hit in hits]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        manager = run_manager.get_sync()
        return await run_in_executor(None, self._get_relevant_documents, query, run_manager=manager, **kwargs)

    def _encoder(self) -> M3Encoder:
        return self.retriever.index.encoder

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(
            ls_retriever_name="m3",
            ls_vector_store_provider=type(self.retriever.index).__name__,
            ls_embedding_provider="m3plugins",
            ls_embedding_model=self._encoder().model,
        )
