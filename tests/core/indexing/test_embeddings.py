"""Stored embeddings by id, of the in-memory index."""

from dataclasses import replace

from tests.core.retrieval.explanation_suite import EmbeddingsSuite
from tests.tiny import random_documents


class TestEmbeddings(EmbeddingsSuite):
    pass


def test_after_deletes_and_replacements_they_are_those_of_a_scan(empty):
    documents = random_documents(12)
    empty.upsert(documents)
    empty.delete(["doc-1"])
    empty.upsert([replace(documents[5], text="new")])
    scanned = {document.id: output for document, output in empty.scan(with_embeddings=True)}
    found = empty.embeddings(["doc-7", "nobody", "doc-5", "doc-1", "doc-7"])
    assert list(found) == ["doc-7", "doc-5"]
    assert all(output.digest() == scanned[i].digest() for i, output in found.items())


def test_who_keeps_one_does_not_keep_or_change_the_index(index):
    output = index.embeddings(["doc-3"])["doc-3"]
    assert output.dense.base is None and output.multi_vector.vectors.base is None
    before = output.digest()
    output.dense[:] = 0
    assert index.embeddings(["doc-3"])["doc-3"].digest() == before
