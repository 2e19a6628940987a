from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from m3plugins import Document, M3Output
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.retrieval import HybridIndex, filters
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.milvus.conftest import random_documents
from tests.tiny import SENTENCES

INJECTIONS = [
    "zz'] or id in ['a','b",
    'zz"] or key != "" or key in ["',
    '") or 1 == 1 or ("" == "',
    "'; drop",
    "\\",
    '"',
    "%",
    "a\nb",
    "\x00",
    "狐🦊",
    "\u2028",
    "x" * 65_535,
    "é" * 32_767,
]


def test_is_a_hybrid_index(index):
    assert isinstance(index, HybridIndex)


def test_documents_come_back_as_they_went_in(index, documents):
    assert sorted(index.scan(), key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)
    assert index.count() == len(documents)


def test_get_keeps_the_order_and_leaves_out_the_unknown(index, documents):
    assert index.get(["doc-7", "nope", "doc-3"]) == [documents[7], documents[3]]
    assert index.get([]) == []


def test_get_takes_no_single_string(index):
    with pytest.raises(TypeError, match="list of strings"):
        index.get("doc-7")


def test_a_second_upsert_writes_nothing(index, documents):
    report = index.upsert(documents)
    assert (report.written, report.unchanged, report.failed) == (0, 100, [])


def test_any_change_is_written(empty):
    document = Document(id="a", text="fox", metadata={"n": 1})
    empty.upsert([document])
    changed = [
        replace(document, text="dog"),
        replace(document, metadata={"n": 1.5}),
        replace(document, title="t"),
        replace(document, parent_id="p"),
    ]
    for other in changed:
        assert empty.upsert([other]).written == 1
        assert empty.get(["a"]) == [other]
        assert empty.count() == 1


def test_a_replaced_document_keeps_nothing_of_the_old_one(empty, encoder):
    """Lite's own upsert keeps the dynamic fields that the new row lacks."""
    empty.upsert([Document(id="a", text="fox", metadata={"year": 2020}, parent_id="p", title="t")])
    empty.upsert([Document(id="a", text="fox")])
    assert empty.get(["a"]) == [Document(id="a", text="fox")]
    for wanted in (filters.gt("year", 0), filters.exists("year"), filters.eq("year", 2020), 'parent_id == "p"'):
        assert empty.count(wanted) == 0


def test_generators_are_streamed(empty):
    taken = []
    acknowledged = []

    def stream():
        for document in random_documents(600):
            taken.append(document.id)
            yield document

    def on_ack(ids):
        acknowledged.append((len(taken), len(ids)))

    assert empty.upsert(stream(), on_ack=on_ack).written == 600
    assert acknowledged[0][0] < 600  # the first were stored before the last were read
    assert sum(count for _, count in acknowledged) == 600


def test_of_two_documents_of_one_id_the_later_wins(empty):
    empty.upsert([Document(id="a", text="first"), Document(id="b", text="b"), Document(id="a", text="second")])
    assert {d.id: d.text for d in empty.scan()} == {"a": "second", "b": "b"}


@pytest.mark.parametrize("value", INJECTIONS)
def test_ids_are_never_read_as_expressions(empty, encoder, value):
    others = [Document(id="a", text="fox"), Document(id="b", text="dog")]
    odd = Document(id=value, text="odd", metadata={"field": value[:1000], value[:1000] or "_": 1}, parent_id=value)
    assert empty.upsert([*others, odd]).failed == []
    assert empty.get([value]) == [odd]
    assert value in empty.score(encoder.encode_queries(["odd"]), [value])
    assert [d.id for d in empty.scan(filters.eq("field", value[:1000]))] == [value]
    assert [d.id for d in empty.scan(filters.exists(value[:1000]))] == [value]
    assert empty.delete([value]) == 1
    assert sorted(d.id for d in empty.scan()) == ["a", "b"]
    assert empty.delete([value]) == 0
    assert empty.delete(filter=filters.eq("field", value[:1000])) == 0


def test_delete_by_ids_counts_what_was_there(empty):
    empty.upsert(random_documents(5))
    assert empty.delete(["doc-0", "doc-0", "nope", "doc-1"]) == 2
    assert empty.count() == 3
    assert empty.delete([]) == 0


def test_delete_by_filter(empty):
    documents = random_documents(30)
    empty.upsert(documents)
    assert empty.delete(filter=filters.lt("number", 10)) == 10
    assert empty.delete(filter=filters.eq("even", True)) == 10
    assert {d.metadata["number"] for d in empty.scan()} == set(range(11, 30, 2))


@pytest.mark.parametrize("arguments", [{}, {"ids": ["a"], "filter": filters.eq("a", 1)}])
def test_delete_takes_ids_or_a_filter(empty, arguments):
    with pytest.raises(ValueError, match="exactly one of ids, filter, parent_id"):
        empty.delete(**arguments)


def test_what_cannot_be_stored_is_reported_and_the_rest_is_stored(empty):
    documents = [
        Document(id="good", text="fox"),
        Document(id="x" * 65_536, text="long id"),
        Document(id="metadata", text="x", metadata={"long": "x" * 65_536}),
        Document(id="title", text="x", title="x" * 65_536),
        Document(id="integer", text="x", metadata={"n": [2**64]}),
        Document(id="values", text="x", metadata={"n": list(range(5000))}),
        Document(id="surrogate", text="\ud800"),
        Document(id="nan", text="x", metadata={"n": float("nan")}),
        Document(id="", text="no id"),
        Document(id="fine", text="dog"),
    ]
    report = empty.upsert(documents)
    assert report.written == 2
    assert {d.id for d in empty.scan()} == {"good", "fine"}
    reasons = {failure.id[:20]: failure.reason for failure in report.failed}
    assert len(reasons) == 8
    assert reasons["x" * 20] == "id must be at most 65,535 bytes of UTF-8 for Milvus, got 65,536; shorten it"
    assert "65,536 bytes" in reasons["metadata"]
    assert "64 bits" in reasons["integer"]


def test_embeddings_of_the_callers_are_stored(empty, encoder):
    documents = random_documents(10)
    output = encoder.encode_documents([document.content for document in documents])
    assert empty.upsert(documents, embeddings=[output[:3], output[3:]]).written == 10
    for document, stored in empty.scan(with_embeddings=True):
        row = documents.index(document)
        np.testing.assert_array_equal(stored.dense, output[row].dense)
        assert stored.sparse[0].to_dict() == output.sparse[row].to_dict()
        np.testing.assert_allclose(stored.multi_vector[0], output.multi_vector[row], atol=0.005)
        assert stored.token_counts.tolist() == output[row].token_counts.tolist()
        assert stored.truncated.tolist() == output[row].truncated.tolist()


def test_a_nan_embedding_fails_its_document_only(empty, embedding):
    broken = replace(embedding, dense=np.full_like(embedding.dense, np.nan))
    report = empty.upsert([Document(id="a", text="a"), Document(id="b", text="b")], embeddings=[embedding, broken])
    assert (report.written, [failure.id for failure in report.failed]) == (1, ["b"])


def test_embeddings_of_another_width_fail_their_document(empty, embedding):
    narrow = replace(embedding, dense=embedding.dense[:, :16])
    other = replace(embedding, sparse=replace(embedding.sparse, vocab_size=10))
    for wrong in (narrow, other):
        report = empty.upsert([Document(id="a", text="a")], embeddings=[wrong])
        assert (report.written, [failure.id for failure in report.failed]) == (0, ["a"])


def test_more_documents_than_embeddings_are_an_error(empty, embedding):
    with pytest.raises(ValueError, match="embeddings ran out"):
        empty.upsert(random_documents(2), embeddings=embedding)


def test_a_text_without_tokens_is_found_by_its_dense_vector_only(empty, embedding, encoder):
    bare = M3Output(
        dense=embedding.dense,
        sparse=SparseEmbeddings.from_dicts([{}], vocab_size=encoder.vocab_size),
        multi_vector=embedding.multi_vector,
        token_counts=embedding.token_counts,
        truncated=embedding.truncated,
    )
    empty.upsert([Document(id="a", text="")], embeddings=bare)
    query = encoder.encode_queries(["The quick brown fox"])
    found = empty.candidates(query, 3)
    assert ([hit.id for hit in found["dense"]], found["sparse"]) == (["a"], [])
    assert empty.score(query, ["a"])["a"].sparse == 0.0
    ((_, stored),) = empty.scan(with_embeddings=True)
    assert stored.sparse[0].to_dict() == {}


def test_score_leaves_out_the_unknown(index, encoder):
    query = encoder.encode_queries(["fox"])
    assert list(index.score(query, ["doc-5", "nope", "doc-2"])) == ["doc-5", "doc-2"]
    assert index.score(query, []) == {}


def test_score_takes_one_query(index, encoder):
    with pytest.raises(ValueError, match="one text"):
        index.score(encoder.encode_queries(["a", "b"]), ["doc-1"])


def test_an_empty_index_answers(empty, encoder):
    assert empty.candidates(encoder.encode_queries(["fox"]), 5) == {"dense": [], "sparse": []}
    assert (empty.count(), empty.get(["a"]), list(empty.scan()), empty.delete(["a"])) == (0, [], [], 0)


def test_callers_documents_are_left_alone(empty):
    metadata = {"tags": ["a"], "nested": {"b": 1}}
    document = Document(id="a", text="fox", metadata=metadata)
    empty.upsert([document])
    assert metadata == {"tags": ["a"], "nested": {"b": 1}}


def test_multi_vectors_alone_can_be_scored(index, encoder):
    query = encoder.encode_queries(["fox"], heads=["multi_vector"])
    assert isinstance(query.multi_vector, MultiVectorEmbeddings)
    scores = index.score(query, ["doc-1"])["doc-1"]
    assert scores.dense is None and scores.sparse is None and scores.multi_vector is not None


def test_reopened_it_is_the_same(create, encoder, tmp_path):
    documents = random_documents(10)
    with create() as index:
        index.upsert(documents)
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert sorted(index.scan(), key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)
        assert index.upsert(documents).unchanged == 10
        assert len(index.candidates(encoder.encode_queries(["fox"]), 3)["dense"]) == 3


def test_a_document_whose_blocks_are_lost_is_named(encoder, tmp_path):
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        index.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
        index._store.blocks.delete([key for page in index._store.blocks.keys() for key in page if ":" in key])
        with pytest.raises(MilvusIndexError, match="of 'a'.* are lost in Milvus; delete and index them again"):
            index.score(encoder.encode_queries(["fox"]), ["a"])
        index.delete(ids=["a"])
        index.upsert([Document(id="a", text="a fox")])
        assert index.score(encoder.encode_queries(["fox"]), ["a"])["a"].multi_vector is not None


def test_a_name_is_usable_after_an_interrupted_create(encoder, tmp_path, monkeypatch):
    from m3plugins_milvus import lifecycle

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_check_sparse", interrupt)
        with pytest.raises(KeyboardInterrupt):
            MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db")
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        index._store.documents.drop()  # as far as a killed drop() came
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert index.count() == 0


def test_threads_that_write_at_once_lose_nothing(create, encoder, tmp_path):
    with create() as index, ThreadPoolExecutor(8) as threads:
        batches = [[Document(id=f"{i}-{j}", text=f"{SENTENCES[j]} {i}") for j in range(5)] for i in range(40)]
        reports = list(threads.map(index.upsert, batches))
        assert [report.written for report in reports] == [5] * 40
        assert index.count() == 200
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert {document.id for document in index.scan()} == {document.id for batch in batches for document in batch}
