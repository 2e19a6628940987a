"""`M3NodeEncoder`: a store with a dense and a sparse vector costs one forward pass a node."""

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.embeddings.m3plugins import M3Embedding, M3NodeEncoder
from llama_index.sparse_embeddings.m3plugins import M3SparseEmbedding

from m3plugins import M3Encoder
from tests.llamaindex.conftest import Passes


class TwoLegged(SimpleVectorStore):
    """Embeds as LlamaIndex' Milvus store does: dense from the node, sparse from `node.text`, one at a time."""

    sparse: M3SparseEmbedding

    def __init__(self, sparse: M3SparseEmbedding) -> None:
        super(SimpleVectorStore, self).__init__(sparse=sparse)

    def add(self, nodes: list[BaseNode], **kwargs: object) -> list[str]:
        for node in nodes:
            self.sparse.get_text_embedding(node.text)
        return super().add(nodes, **kwargs)


@pytest.fixture
def storage(encoder: M3Encoder) -> StorageContext:
    return StorageContext.from_defaults(vector_store=TwoLegged(M3SparseEmbedding(encoder=encoder)))


def test_the_embedding_is_that_of_the_text_without_metadata(encoder: M3Encoder, nodes: list[TextNode]):
    vectors = M3Embedding(encoder=encoder).get_text_embedding_batch([node.text for node in nodes])
    assert [node.embedding for node in M3NodeEncoder(encoder=encoder)(nodes)] == vectors


async def test_it_gives_copies(encoder: M3Encoder, nodes: list[TextNode]):
    before = [node.model_dump() for node in nodes]
    encode = M3NodeEncoder(encoder=encoder)
    assert [node.embedding for node in await encode.acall(nodes)] == [node.embedding for node in encode(nodes)]
    assert [node.model_dump() for node in nodes] == before
    assert encode([]) == []


def test_a_stock_store_costs_one_pass_a_node(
    encoder: M3Encoder, nodes: list[TextNode], storage: StorageContext, passes: Passes
):
    encode, embed_model = M3NodeEncoder(encoder=encoder), M3Embedding(encoder=encoder)
    VectorStoreIndex(list(encode(nodes)), storage_context=storage, embed_model=embed_model)
    assert set(passes.values()) == {1} and len(passes) == len(nodes)


def test_without_it_metadata_cost_a_second_pass(
    encoder: M3Encoder, nodes: list[TextNode], storage: StorageContext, passes: Passes
):
    VectorStoreIndex(nodes, storage_context=storage, embed_model=M3Embedding(encoder=encoder))
    assert passes.total() == 2 * len(nodes)


def test_where_all_metadata_are_excluded_the_embedding_alone_is_enough(
    encoder: M3Encoder, nodes: list[TextNode], storage: StorageContext, passes: Passes
):
    for node in nodes:
        node.excluded_embed_metadata_keys = list(node.metadata)
    VectorStoreIndex(nodes, storage_context=storage, embed_model=M3Embedding(encoder=encoder))
    assert passes.total() == len(nodes)
