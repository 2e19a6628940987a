"""Stored embeddings by id, and explanations, on Milvus Lite."""

import pytest

from m3plugins_milvus import MilvusIndexError
from tests.core.retrieval.explanation_suite import ExplanationSuite
from tests.tiny import random_documents


class TestExplanation(ExplanationSuite):
    pass


def test_token_vectors_are_read_only_if_they_are_asked_for(make):
    index = make()
    index.upsert(random_documents(3))
    expected = index.embeddings(["doc-1"])["doc-1"].select(("dense", "sparse"))
    index._store.blocks.drop()
    assert index.embeddings(["doc-1"], ("dense", "sparse"))["doc-1"].digest() == expected.digest()
    with pytest.raises(MilvusIndexError):
        index.embeddings(["doc-1"], ("multi_vector",))
