"""The contract of every framework, by LangChain's store and retriever."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from langchain_m3plugins import M3Retriever, M3VectorStore
from m3plugins import HybridRetriever
from m3plugins.indexing.filters import Filter
from tests.frameworks.contract import Adapter, AdapterContract, Entry, Found


class LangChain(Adapter):
    def __init__(self, retriever: HybridRetriever) -> None:
        self.store = M3VectorStore(retriever)
        self.retriever = M3Retriever(retriever=retriever)

    def add(self, entries: Sequence[Entry]) -> list[str]:
        return self.store.add_documents([Document(e.text, id=e.id, metadata=dict(e.metadata)) for e in entries])

    def delete(self, ids: Sequence[str]) -> None:
        self.store.delete(list(ids))

    def get(self, ids: Sequence[str]) -> list[Entry]:
        return [entry(document) for document in self.store.get_by_ids(list(ids))]

    def search(self, query: str, k: int, filter: Filter | None = None) -> list[Found]:
        return [found(document) for document in self.retriever.invoke(query, k=k, filter=filter)]

    async def asearch(self, query: str, k: int, filter: Filter | None = None) -> list[Found]:
        return [found(document) for document in await self.retriever.ainvoke(query, k=k, filter=filter)]


def entry(document: Document) -> Entry:
    return Entry(document.id, document.page_content, document.metadata)


def found(document: Document) -> Found:
    metadata = dict(document.metadata)
    scores = metadata.pop("m3")
    return Found(Entry(document.id, document.page_content, metadata), scores["score"], scores)


class TestLangChain(AdapterContract):
    adapter_class = LangChain
