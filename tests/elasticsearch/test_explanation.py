"""Stored embeddings by id, and explanations, on Elasticsearch."""

from m3plugins_elasticsearch.store import Store
from tests.core.retrieval.explanation_suite import ExplanationSuite


class TestExplanation(ExplanationSuite):
    pass


def test_token_vectors_are_read_only_if_they_are_asked_for(index, monkeypatch):
    asked = []
    doc_values = Store.doc_values
    monkeypatch.setattr(Store, "doc_values", lambda *a: asked.append(a[2]) or doc_values(*a))
    index.embeddings(["doc-1"], ("dense", "sparse"))
    index.embeddings(["doc-1"], ("multi_vector",))
    assert ["token_vectors" in fields for fields in asked] == [False, True]
