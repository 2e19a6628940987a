"""The retriever that `M3VectorStore.as_retriever` returns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import ConfigDict

from langchain_m3plugins.batching import BatchedQueries
from langchain_m3plugins.embeddings import M3Embeddings
from langchain_m3plugins.searching import SEARCH_TYPES
from m3plugins import M3Encoder


class M3VectorStoreRetriever(BatchedQueries, VectorStoreRetriever):
    """LangChain's `VectorStoreRetriever` with the search types of `M3VectorStore.search` and batched encoding.

    Keywords of `invoke`, `ainvoke`, `batch` and `abatch` go before `search_kwargs`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    allowed_search_types: ClassVar[Collection[str]] = (*VectorStoreRetriever.allowed_search_types, *SEARCH_TYPES)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self.vectorstore.search(query, self.search_type, **self.search_kwargs | kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await self.vectorstore.asearch(query, self.search_type, **self.search_kwargs | kwargs)

    def _encoder(self) -> M3Encoder:
        embeddings = self.vectorstore.embeddings
        assert isinstance(embeddings, M3Embeddings)
        return embeddings.encoder

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_embedding_model"] = self._encoder().model
        return params
