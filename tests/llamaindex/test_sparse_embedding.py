"""`M3SparseEmbedding`: token weights in LlamaIndex' types, and in those of its Milvus store."""

import importlib.util
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.m3plugins import M3Embedding, M3NodeEncoder
from llama_index.sparse_embeddings.m3plugins import M3SparseEmbedding

from m3plugins import M3Encoder
from m3plugins.encoding import SparseEmbeddings
from m3plugins.scoring import sparse_scores
from tests.llamaindex.conftest import Passes
from tests.tiny import SENTENCES

STOCK_MILVUS = "llama_index.vector_stores.milvus"


def has_stock_milvus() -> bool:
    return importlib.util.find_spec(STOCK_MILVUS) is not None


@pytest.fixture
def embedding(encoder: M3Encoder) -> M3SparseEmbedding:
    return M3SparseEmbedding(encoder=encoder)


def test_weights_are_the_encoders_own_as_python_numbers(embedding: M3SparseEmbedding, encoder: M3Encoder):
    rows = embedding.get_text_embedding_batch(SENTENCES)
    assert rows == [pytest.approx(row.to_dict(), abs=1e-6) for row in encoder.encode_documents(SENTENCES).sparse]
    query = encoder.encode_queries(["a fox"]).sparse[0].to_dict()
    assert embedding.get_query_embedding("a fox") == pytest.approx(query, abs=1e-6)
    assert {(type(token), type(weight)) for row in rows for token, weight in row.items()} == {(int, float)}


async def test_async_gives_the_same(embedding: M3SparseEmbedding):
    assert await embedding.aget_query_embedding("a fox") == embedding.get_query_embedding("a fox")
    assert await embedding.aget_text_embedding("a fox") == embedding.get_text_embedding("a fox")
    assert await embedding.aget_text_embedding_batch(SENTENCES) == embedding.get_text_embedding_batch(SENTENCES)


def test_similarity_is_the_sparse_score(embedding: M3SparseEmbedding):
    one, other = embedding.get_text_embedding_batch(SENTENCES[:2])
    rows = SparseEmbeddings.from_dicts([one, other], vocab_size=embedding.encoder.vocab_size)
    assert embedding.similarity(one, other) == pytest.approx(float(sparse_scores(rows, rows)[0, 1]))
    assert embedding.similarity(one, {}) == 0.0 and type(embedding.similarity({}, {})) is float


@pytest.mark.skipif(has_stock_milvus(), reason="LlamaIndex' Milvus store is installed")
def test_without_the_stock_store_it_says_what_to_install(embedding: M3SparseEmbedding):
    with pytest.raises(ImportError, match="pip install llama-index-vector-stores-milvus"):
        embedding.for_milvus()


@pytest.mark.skipif(not has_stock_milvus(), reason="needs LlamaIndex' Milvus store, which needs pymilvus < 3")
async def test_the_stock_store_takes_it_at_one_pass_a_node(
    embedding: M3SparseEmbedding, nodes: list[TextNode], passes: Passes, tmp_path: Path
):
    from llama_index.vector_stores.milvus import MilvusVectorStore
    from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

    function = embedding.for_milvus()
    assert isinstance(function, BaseSparseEmbeddingFunction)
    store = MilvusVectorStore(
        uri=str(tmp_path / "stock.db"),
        dim=embedding.encoder.dim,
        similarity_metric="IP",
        enable_sparse=True,
        sparse_embedding_function=function,
        use_async_client=False,
    )
    dense = M3Embedding(encoder=embedding.encoder)
    index = VectorStoreIndex.from_vector_store(store, embed_model=dense)
    index.insert_nodes(M3NodeEncoder(encoder=embedding.encoder)(nodes))
    assert set(passes.values()) == {1} and len(passes) == len(nodes)

    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3)
    found = retriever.retrieve(2 * SENTENCES[4])
    assert found[0].node_id == "node-4"
    assert set(passes.values()) == {1}, "the query too, although both halves ask for it"
    assert await function.async_encode_queries(["a fox"]) == function.encode_queries(["a fox"])
    assert await function.async_encode_documents(SENTENCES) == function.encode_documents(SENTENCES)


@pytest.mark.skipif(not has_stock_milvus(), reason="needs LlamaIndex' Milvus store, which needs pymilvus < 3")
def test_a_text_without_a_token_has_a_dimension_of_its_own_in_the_stock_store(embedding: M3SparseEmbedding):
    """Milvus takes no empty vector."""
    assert embedding.for_milvus().encode_documents([""]) == [{embedding.encoder.vocab_size: 1e-6}]
    assert embedding.for_milvus().encode_queries([""]) == [{}]
