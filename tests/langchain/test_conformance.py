"""LangChain's own suites, unmodified."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_m3plugins import M3Embeddings, M3Retriever, M3VectorStore, M3VectorStoreRetriever
from m3plugins import HybridIndex, HybridRetriever


class _Embeddings:
    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoint):
        self.checkpoint = checkpoint

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return M3Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": str(self.checkpoint), "encoder_kwargs": {"document_max_length": 64}}


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(_Embeddings, EmbeddingsIntegrationTests):
    pass


class _Retriever:
    @pytest.fixture(autouse=True)
    def _hybrid(self, hybrid: HybridRetriever):
        self.hybrid = hybrid

    @property
    def retriever_query_example(self) -> str:
        return "a quick fox"


class TestRetriever(_Retriever, RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return M3Retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"retriever": self.hybrid}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, empty: HybridIndex) -> VectorStore:
        return M3VectorStore(HybridRetriever(empty))


class TestVectorStoreFromTexts(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, checkpoint) -> VectorStore:
        return M3VectorStore.from_texts([], M3Embeddings(model=checkpoint))


def test_the_stores_retriever_takes_its_number_of_results_as_search_kwargs(hybrid: HybridRetriever):
    """Its constructor is LangChain's, so that suite's `k` in the constructor is not for it."""
    retriever = M3VectorStore(hybrid).as_retriever(search_kwargs={"k": 3})
    assert isinstance(retriever, M3VectorStoreRetriever)
    assert len(retriever.invoke("a quick fox")) == 3
    assert len(retriever.invoke("a quick fox", k=1)) == 1
