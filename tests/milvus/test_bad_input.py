"""Bad input on Milvus Lite: what it has limits on, and collections that are not ours."""

import pytest
from pymilvus import DataType, MilvusClient

from m3plugins import Document, M3Encoder, ModelMismatchError
from m3plugins.indexing import IndexNotFoundError
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError
from tests.core.indexing.bad_input_suite import StoredBadInputSuite, assert_no_filter, assert_refused
from tests.tiny import save_checkpoint

LIMITS = {
    "id": (
        Document(id="é" * 32_768, text="a"),
        "id must be at most 65,535 bytes of UTF-8 for Milvus, got 65,536; shorten it",
    ),
    "title": (Document(id="x", text="a", title="x" * 65_536), "title must be at most 65,535 bytes"),
    "metadata": (
        Document(id="x", text="a", metadata={"n": "x" * 65_536}),
        "metadata must be at most 65,536 bytes of UTF-8 for Milvus, got .*; move the long values into the text",
    ),
    "an integer of 65 bits": (Document(id="x", text="a", metadata={"n": [2**64]}), "64 bits"),
    "5,000 values": (
        Document(id="x", text="a", metadata={"n": list(range(5000))}),
        "metadata must have at most about 800 fields .* and 2,500 values .*, got 1 fields with 5,000 values",
    ),
    "1,000 fields": (
        Document(id="x", text="a", metadata={f"field_{n}": n for n in range(1000)}),
        "metadata must have at most about 800 fields .* got 1,000 fields with 1,000 values, .* nest what no filter",
    ),
}


class TestBadInput(StoredBadInputSuite):
    error = MilvusIndexError

    def own_verbs(self, index):
        return [*super().own_verbs(index), lambda: index.sweep()]


@pytest.mark.parametrize(("bad", "reason"), LIMITS.values(), ids=LIMITS)
def test_a_document_over_a_limit_is_named_and_the_others_are_stored(empty, bad, reason):
    assert_refused(empty, bad, reason)


def test_as_many_fields_as_the_limit_says_are_stored_and_found(empty):
    plain = Document(id="plain", text="fox", metadata={f"field_{n}": n for n in range(800)})
    long = Document(id="long", text="fox", metadata={f"field_{n}": "a long string of words " * 2 for n in range(390)})
    nested = Document(id="nested", text="fox", metadata={"other": {f"field_{n}": n for n in range(1000)}})
    assert empty.upsert([plain, long, nested]).failed == []
    assert [document.id for document in empty.scan(filters.eq("field_799", 799))] == ["plain"]


def test_a_nul_may_be_in_a_key(empty):
    document = Document(id="a", text="fox", metadata={"\x00": "\x00"})
    assert empty.upsert([document]).failed == []
    assert list(empty.scan(filters.exists("\x00"))) == [document]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [('id == "a" or', MilvusIndexError), ("", ValueError), ({"eq": {"a": 1}}, TypeError)],
    ids=["broken expression", "empty expression", "dict"],
)
def test_a_filter_that_is_none_is_refused_and_deletes_nothing(empty, wanted, error):
    assert_no_filter(empty, wanted, error)


def test_another_model_is_refused_on_open(create, encoder, tmp_path):
    create().close()
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    with pytest.raises(ModelMismatchError, match="open it with the model that made it, or make a second index"):
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
