"""One index, filled once; the core, LangChain and LlamaIndex ask it the same questions."""

from __future__ import annotations

import pytest
from llama_index.core.schema import TextNode
from llama_index.retrievers.m3plugins import M3Retriever as LlamaIndexRetriever
from llama_index.vector_stores.m3plugins import M3VectorStore as LlamaIndexStore

from langchain_m3plugins import M3Retriever as LangChainRetriever
from langchain_m3plugins import M3VectorStore as LangChainStore
from m3plugins import Document, HybridRetriever, HybridWeights, M3Encoder
from tests.frameworks.contract import ENGINES, ENTRIES, QUERIES, make_index


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filled_by", ["core", "LangChain", "LlamaIndex"])
@pytest.mark.parametrize(
    "weights", [HybridWeights(), HybridWeights(dense=0, sparse=1, multi_vector=0)], ids=["all", "sparse"]
)
def test_ids_and_scores_are_the_same(
    encoder: M3Encoder, request: pytest.FixtureRequest, engine: str, filled_by: str, weights: HybridWeights
) -> None:
    with make_index(engine, encoder, request) as index:
        core = HybridRetriever(index, weights=weights)
        if filled_by == "core":
            index.upsert(Document(id=e.id, text=e.text, metadata=e.metadata) for e in ENTRIES)
        elif filled_by == "LangChain":
            LangChainStore(core).add_texts([e.text for e in ENTRIES], ids=[e.id for e in ENTRIES])
        else:
            LlamaIndexStore(retriever=core).add([TextNode(id_=e.id, text=e.text) for e in ENTRIES])

        for query in QUERIES:
            hits = core.search(query, 6)
            documents = LangChainRetriever(retriever=core, k=6).invoke(query)
            nodes = LlamaIndexRetriever(core, k=6).retrieve(query)
            ids, scores = [hit.id for hit in hits], pytest.approx([hit.score for hit in hits], abs=1e-6)
            assert [document.id for document in documents] == ids
            assert [document.metadata["m3"]["score"] for document in documents] == scores
            assert [found.node.node_id for found in nodes] == ids
            assert [found.score for found in nodes] == scores
