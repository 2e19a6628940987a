"""What a user sees on bad input: the rule, what was received, what to do; and the rest is stored."""

import re
from dataclasses import replace

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from m3plugins import Document, HybridRetriever, M3Encoder, ModelMismatchError
from m3plugins.encoding import Passages
from m3plugins.retrieval import IndexNotFoundError, filters
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.tiny import SENTENCES, save_checkpoint

GOOD = Document(id="good", text="The quick brown fox")
deep: list = []
for _ in range(100):
    deep = [deep]

REFUSED = {
    "lone surrogate in the text": (
        Document(id="x", text="ab\ud800"),
        "text must be valid Unicode, got a lone surrogate at character 2; repair the text first",
    ),
    "lone surrogate in the id": (Document(id="\udfff", text="a"), "id must be valid Unicode, got a lone surrogate"),
    "empty id": (Document(id="", text="a"), "id must not be empty"),
    "id over the limit in bytes": (
        Document(id="é" * 32_768, text="a"),
        "id must be at most 65,535 bytes of UTF-8 for Milvus, got 65,536; shorten it",
    ),
    "metadata that are no JSON": (Document(id="x", text="a", metadata={"s": {1, 2}}), "metadata.s must be JSON"),
    "a key that is no string": (Document(id="x", text="a", metadata={1: 2}), "metadata must have string keys, got 1"),
    "a NaN in the metadata": (
        Document(id="x", text="a", metadata={"n": [float("nan")]}),
        r"metadata.n\[0\] must be a finite number, got nan",
    ),
    "deep metadata": (Document(id="x", text="a", metadata={"d": deep}), "must not nest deeper than 64 levels"),
    "metadata over the limit": (
        Document(id="x", text="a", metadata={"n": "x" * 65_536}),
        "metadata must be at most 65,536 bytes of UTF-8 for Milvus, got .*; move the long values into the text",
    ),
}


@pytest.mark.parametrize("bad, reason", REFUSED.values(), ids=REFUSED)
def test_a_document_that_cannot_be_stored_is_named_and_the_others_are_stored(empty, bad, reason):
    acknowledged = []
    report = empty.upsert([GOOD, bad, replace(GOOD, id="fine")], on_ack=acknowledged.extend)
    assert (report.written, [failure.id for failure in report.failed]) == (2, [bad.id])
    assert re.search(reason, report.failed[0].reason)
    assert sorted(acknowledged) == ["fine", "good"] == sorted(d.id for d in empty.scan())


ACCEPTED = {
    "empty text": Document(id="x", text=""),
    "whitespace": Document(id="x", text=" \n\t "),
    "NUL": Document(id="a\x00b", text="fox\x00dog", title="\x00", metadata={"\x00": "\x00"}, parent_id="\x00"),
    "an injection in every field": Document(
        id='"] or key != "',
        text="'; drop",
        title='") or (',
        metadata={'a"] or 1 == 1': "' or '1'='1"},
        parent_id="' or '",
    ),
    "100,000 characters of Latin": Document(id="x", text=(SENTENCES[0] + " ") * 1600),
    "100,000 characters of Thai": Document(id="x", text=SENTENCES[9] * 2000),
    "100,000 characters without a space": Document(id="x", text="x" * 100_000),
}


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_odd_documents_come_back_to_the_letter_and_are_found(empty, document):
    report = empty.upsert([GOOD, document])
    assert (report.written, report.failed) == (2, [])
    assert report.truncated == (len(document.text) > 9999)
    assert empty.get([document.id]) == [document]
    assert document.id in {hit.id for hit in HybridRetriever(empty).search("fox", k=5)}
    assert empty.delete([document.id]) == 1
    assert [d.id for d in empty.scan()] == ["good"]


@pytest.mark.parametrize("text", [(SENTENCES[0] + " ") * 300, SENTENCES[9] * 400], ids=["Latin", "Thai"])
def test_as_passages_long_texts_are_read_to_the_end(create, text):
    with create("cut", passages=Passages(size=500, overlap=50)) as index:
        report = index.upsert([Document(id="x", text=text)])
        assert (report.written, report.truncated) == (1, 0)
        assert index.count() > 10


def test_no_documents_are_no_error(empty):
    report = empty.upsert([])
    assert (report.written, report.unchanged, report.failed) == (0, 0, [])
    assert HybridRetriever(empty).search("fox") == []


def test_duplicates_in_one_call_are_replaced_in_order(empty):
    report = empty.upsert([replace(GOOD, text=f"version {n}") for n in range(5)])
    assert report.failed == []
    assert [d.text for d in empty.scan()] == ["version 4"]


@pytest.mark.parametrize("head", ["dense", "sparse", "multi_vector"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_fail_their_document(empty, embedding, head, value):
    broken = {
        "dense": lambda: replace(embedding, dense=np.full_like(embedding.dense, value)),
        "sparse": lambda: replace(
            embedding, sparse=replace(embedding.sparse, values=np.full_like(embedding.sparse.values, value))
        ),
        "multi_vector": lambda: replace(
            embedding,
            multi_vector=replace(embedding.multi_vector, vectors=np.full_like(embedding.multi_vector.vectors, value)),
        ),
    }[head]()
    report = empty.upsert([GOOD, replace(GOOD, id="bad")], embeddings=[embedding, broken])
    assert (report.written, report.failed) == (1, [("bad", "embeddings must be finite, got NaN or infinity")])


@pytest.mark.parametrize(
    "filter, error",
    [
        ('id == "a" or', MilvusIndexError),
        ("", ValueError),
        ({"eq": {"a": 1}}, TypeError),
        (["a"], TypeError),
    ],
    ids=["broken expression", "empty expression", "dict", "list"],
)
def test_a_filter_that_is_none_is_refused_and_deletes_nothing(empty, filter, error):
    empty.upsert([GOOD])
    for verb in (empty.delete, empty.count, lambda filter: list(empty.scan(filter))):
        with pytest.raises(error):
            verb(filter=filter)
    with pytest.raises(error):
        HybridRetriever(empty).search("fox", filter=filter)
    assert empty.count() == 1


def test_a_hostile_filter_value_matches_itself_only(empty):
    empty.upsert([GOOD, replace(GOOD, id="other", metadata={"a": "x"})])
    for value in ('x" or "1" == "1', "%", "x%", "_", "\\", "') or ('"):
        assert empty.count(filters.eq("a", value)) == 0
        assert empty.delete(filter=filters.prefix("a", value)) == 0
    assert empty.count() == 2


def test_another_model_is_refused_on_open(create, encoder, tmp_path):
    create().close()
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    with pytest.raises(ModelMismatchError, match="open it with the model it was made with, or index the documents"):
        MilvusHybridIndex.open("docs", encoder=other, uri=tmp_path / "m3.db")


def test_a_collection_of_another_kind_is_refused_and_left_alone(create, encoder, tmp_path):
    create("ours")
    client = MilvusClient(str(tmp_path / "m3.db"))
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=2)
    params = MilvusClient.prepare_index_params()
    params.add_index("v", index_type="FLAT", metric_type="IP")
    client.create_collection("theirs", schema=schema, index_params=params)
    client.insert("theirs", [{"pk": 1, "v": [0.0, 1.0]}])
    with pytest.raises(ValueError, match="'theirs' was not made by MilvusHybridIndex.create"):
        MilvusHybridIndex.open("theirs", encoder=encoder, uri=tmp_path / "m3.db")
    with pytest.raises(ValueError, match="there is a collection 'theirs' already"):
        create("theirs")
    assert client.query("theirs", filter="", output_fields=["count(*)"])[0]["count(*)"] == 1
    client.close()


def test_an_index_that_is_not_there_is_named(create, encoder, tmp_path):
    create()
    with pytest.raises(IndexNotFoundError, match="there is no index 'nope' at .*; make it with"):
        MilvusHybridIndex.open("nope", encoder=encoder, uri=tmp_path / "m3.db")
    with pytest.raises(IndexNotFoundError):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "no_such.db")
    assert not (tmp_path / "no_such.db").exists()


def test_every_verb_of_a_closed_index_says_so(create, encoder, tmp_path):
    index = create()
    index.upsert([GOOD])
    query = encoder.encode_queries(["fox"])
    index.close()
    index.close()
    verbs = [
        lambda: index.upsert([GOOD]),
        lambda: index.update_metadata({"good": {}}),
        lambda: index.delete(["good"]),
        lambda: index.get(["good"]),
        lambda: index.count(),
        lambda: index.scan(),
        lambda: index.candidates(query, 1),
        lambda: index.score(query, ["good"]),
        lambda: index.sweep(),
        lambda: index.swap("live"),
        lambda: index.reembed(encoder, into="other"),
        lambda: index.drop(),
        lambda: HybridRetriever(index).search("fox"),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="this index is closed; open it again with MilvusHybridIndex.open"):
            verb()
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db") as index:
        assert index.get(["good"]) == [GOOD]
