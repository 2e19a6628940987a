"""The contract of every framework, by LlamaIndex' store and retriever."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode, NodeWithScore, TextNode
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.vector_stores.m3plugins import M3VectorStore

from m3plugins import HybridRetriever
from m3plugins.indexing.filters import Filter
from tests.frameworks.contract import Adapter, AdapterContract, Entry, Found


class LlamaIndex(Adapter):
    def __init__(self, retriever: HybridRetriever) -> None:
        self.retriever = retriever
        self.store = M3VectorStore(retriever=retriever)

    def add(self, entries: Sequence[Entry]) -> list[str]:
        return self.store.add([node(each) for each in entries])

    def delete(self, ids: Sequence[str]) -> None:
        self.store.delete_nodes(list(ids))

    def get(self, ids: Sequence[str]) -> list[Entry]:
        return [entry(each) for each in self.store.get_nodes(list(ids))]

    def search(self, query: str, k: int, filter: Filter | None = None) -> list[Found]:
        return [found(each) for each in self.asking(k, filter).retrieve(query)]

    async def asearch(self, query: str, k: int, filter: Filter | None = None) -> list[Found]:
        return [found(each) for each in await self.asking(k, filter).aretrieve(query)]

    def asking(self, k: int, filter: Filter | None) -> M3Retriever:
        return M3Retriever(self.retriever, k=k, filters=filter, scores_key="m3")


def node(each: Entry) -> TextNode:
    """Metadata are excluded from what is encoded, so that it is the text, as in the core."""
    excluded = {"excluded_embed_metadata_keys": list(each.metadata)}
    return TextNode(id_=each.id, text=each.text, metadata=dict(each.metadata), **excluded)


def entry(each: BaseNode) -> Entry:
    return Entry(each.node_id, each.text, each.metadata)


def found(each: NodeWithScore) -> Found:
    metadata = dict(each.node.metadata)
    scores = metadata.pop("m3")
    return Found(Entry(each.node.node_id, each.node.text, metadata), each.score, scores)


class TestLlamaIndex(AdapterContract):
    adapter_class = LlamaIndex
