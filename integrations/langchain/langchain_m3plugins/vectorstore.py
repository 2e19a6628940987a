"""A `HybridIndex` as a LangChain vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore
from typing_extensions import Self

from langchain_m3plugins.building import retriever_for
from langchain_m3plugins.diversity import check_positive, diverse
from langchain_m3plugins.documents import to_core, to_documents, to_langchain, to_scored
from langchain_m3plugins.embeddings import M3Embeddings
from langchain_m3plugins.relevance import relevance_of
from langchain_m3plugins.searching import SEARCH_TYPES, check_keywords, reranked_by, search, search_dense
from langchain_m3plugins.vectorstore_retriever import M3VectorStoreRetriever
from m3plugins import HybridIndex, HybridRetriever
from m3plugins.indexing.filters import AnyFilter


class M3VectorStore(VectorStore):
    """Adds to and searches a `HybridIndex`, by M3's hybrid ranking.

    Searches take, besides what LangChain names, the keywords `filter` (of `m3plugins.indexing.filters`, or the
    engine's own), `weights`, `rerank`, `min_score` (of the raw score) and `per_parent`; any other is a TypeError.
    `k` must be positive. Documents come back as they were added: for the scores of each head use `M3Retriever`.
    The async methods run in a thread.

    Args:
        retriever: Searches the index, which is what stores.

    Example:
        ```python
        index = MilvusHybridIndex.open_or_create("docs", encoder=encoder, uri="m3.db")
        store = M3VectorStore(HybridRetriever(index))
        store.add_texts(["The fox jumps over the dog."], [{"lang": "en"}])
        store.similarity_search("a fox", k=2, filter=filters.eq("lang", "en"))
        store.as_retriever(search_type="dense", search_kwargs={"k": 2})
        ```
    """

    def __init__(self, retriever: HybridRetriever) -> None:
        self.retriever = retriever

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        index: HybridIndex | None = None,
        retriever: HybridRetriever | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes a store of texts.

        Args:
            texts: The texts to add.
            embedding: `M3Embeddings`, whose encoder the default index has; an index that is given has its own.
            metadatas: The metadata of each text.
            ids: The id of each text; None makes one.
            index: The index to store in; None makes an `InMemoryHybridIndex`.
            retriever: The retriever of the store, in place of `index`.
            **kwargs: Arguments of `add_texts`.

        Raises:
            TypeError: If `embedding` is something else.
            ValueError: If there is both an index and a retriever, or nothing to encode with.
            ModelMismatchError: If `embedding` is of another model than the index.
        """
        store = cls(retriever_for(embedding, index, retriever))
        store.add_texts(texts, metadatas, ids=ids, **kwargs)
        return store

    @property
    def index(self) -> HybridIndex:
        """The index of the documents."""
        return self.retriever.index

    @property
    def embeddings(self) -> M3Embeddings:
        """The dense head of the encoder of documents and queries."""
        return M3Embeddings(encoder=self.index.encoder)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Stores texts; one of a known id replaces the old one.

        Args:
            texts: The texts to add.
            metadatas: The metadata of each text: JSON values.
            ids: The id of each text; None makes one.
            **kwargs: `batch_size` is accepted and not needed: texts are encoded and written as a stream anyway.

        Returns:
            The ids, in order.

        Raises:
            UpsertError: If texts could not be stored, once all others are; it names each with the reason.
            ValueError: If there are fewer or more metadatas or ids than texts; then none is stored.
        """
        check_keywords(kwargs, ("batch_size",))
        documents = to_core(texts, metadatas, ids)
        self.index.upsert(documents).raise_for_failed()
        return [document.id for document in documents]

    def add_documents(
        self, documents: Iterable[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Stores documents as `add_texts` does; `ids` go before the ids that the documents have."""
        documents = list(documents)
        texts = [document.page_content for document in documents]
        metadatas = [document.metadata for document in documents]
        own = [document.id for document in documents]
        return self.add_texts(texts, metadatas, ids=own if ids is None else ids, **kwargs)

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: AnyFilter | None = None,
        **kwargs: Any,
    ) -> bool:
        """Deletes by ids or by filter; unknown ids are passed over.

        Raises:
            ValueError: If not exactly one of them is given: nothing deletes all.
        """
        check_keywords(kwargs, ("ids", "filter"))
        self.index.delete(ids, filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Returns the documents of these ids, in this order; unknown ids are left out."""
        return [to_langchain(document) for document in self.index.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Searches for the best k documents for a query, best first."""
        return to_documents(search(self.retriever, query, k, **kwargs))

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """`similarity_search` with the raw scores: higher is better."""
        return to_scored(search(self.retriever, query, k, **kwargs))

    def similarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Searches for the best k documents by the dense score alone, all that a vector gives; nothing is reranked."""
        return to_documents(search_dense(self.retriever, embedding, k, **kwargs))

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search_by_vector` with the exact dense scores."""
        return to_scored(search_dense(self.retriever, embedding, k, **kwargs))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Chooses, of the best documents for a query, k that also differ from each other.

        Args:
            query: The question.
            k: Most documents to return.
            fetch_k: Documents of the hybrid ranking to choose from; k if that is more.
            lambda_mult: 1 goes by the dense similarity to the query alone, 0 by the dissimilarity to each other.
            **kwargs: Arguments of `similarity_search`.
        """
        check_positive("k", k)
        hits = search(self.retriever, query, max(fetch_k, k), **kwargs)
        return to_documents(diverse(hits, self.index, self.embeddings.embed_query(query), k, lambda_mult))

    def max_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`max_marginal_relevance_search` among the best by the dense score alone."""
        check_positive("k", k)
        hits = search_dense(self.retriever, embedding, max(fetch_k, k), **kwargs)
        return to_documents(diverse(hits, self.index, embedding, k, lambda_mult))

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Searches by "hybrid", "dense", "sparse" or "multi_vector", or by one of LangChain's own types.

        "similarity" is "hybrid"; the others rank by one head alone, without a reranker.
        """
        if search_type in SEARCH_TYPES:
            return self.similarity_search(query, **{**SEARCH_TYPES[search_type], **kwargs})
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """`search` in a thread."""
        if search_type in SEARCH_TYPES:
            return await self.asimilarity_search(query, **{**SEARCH_TYPES[search_type], **kwargs})
        return await super().asearch(query, search_type, **kwargs)

    def as_retriever(self, **kwargs: Any) -> M3VectorStoreRetriever:
        """Makes a retriever over this store.

        Args:
            **kwargs: `search_type`, one of those of `search`; `search_kwargs`, the keywords of that search, such
                as `k` and `filter`; `tags` and `metadata` of its runs.
        """
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return M3VectorStoreRetriever(vectorstore=self, tags=tags, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return relevance_of(self.retriever)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        relevance = relevance_of(reranked_by(self.retriever, kwargs.get("rerank")), kwargs.get("weights"))
        found = self.similarity_search_with_score(query, k, **kwargs)
        return [(document, relevance(score)) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)
