"""The sparse head as langchain-milvus takes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from langchain_m3plugins import M3SparseEmbeddings
from m3plugins import M3Encoder
from m3plugins_milvus.rows import stored_sparse
from tests.tiny import SENTENCES


@pytest.fixture
def embeddings(encoder: M3Encoder) -> M3SparseEmbeddings:
    return M3SparseEmbeddings(encoder=encoder)


def test_langchain_milvus_knows_them(embeddings: M3SparseEmbeddings):
    assert isinstance(embeddings, pytest.importorskip("langchain_milvus.utils.sparse").BaseSparseEmbedding)


def test_the_weights_are_the_encoders(embeddings: M3SparseEmbeddings, encoder: M3Encoder):
    expected = encoder.encode_documents(SENTENCES).sparse
    found = embeddings.embed_documents(SENTENCES)
    assert found == [pytest.approx(row.to_dict(), rel=1e-6, abs=1e-6) for row in expected]
    query = encoder.encode_queries(["a fox"]).sparse[0].to_dict()
    assert embeddings.embed_query("a fox") == pytest.approx(query, rel=1e-6, abs=1e-6)


def test_they_are_plain_numbers(embeddings: M3SparseEmbeddings):
    items = [item for row in embeddings.embed_documents(["a fox", ""]) for item in row.items()]
    assert {(type(token), type(weight)) for token, weight in items} == {(int, float)}


def test_a_document_without_a_token_is_stored_as_our_own_index_stores_it(
    embeddings: M3SparseEmbeddings, encoder: M3Encoder
):
    nothing = encoder.encode_documents([""]).sparse[0]
    assert len(nothing) == 0
    assert embeddings.embed_documents([""]) == [stored_sparse(nothing, encoder.vocab_size)]


def test_a_query_without_a_token_is_empty(embeddings: M3SparseEmbeddings):
    assert embeddings.embed_query("") == {}


async def test_the_async_methods_give_the_same(embeddings: M3SparseEmbeddings):
    assert await embeddings.aembed_documents(SENTENCES) == embeddings.embed_documents(SENTENCES)
    assert await embeddings.aembed_query("a fox") == embeddings.embed_query("a fox")


def test_they_can_be_made_without_langchain_milvus():
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "langchain_milvus" else find(name, *rest)
from langchain_m3plugins import M3SparseEmbeddings
print(M3SparseEmbeddings(model="m3-mini").model, "langchain_milvus" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["m3-mini", "False"]
