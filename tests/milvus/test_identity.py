import json
import warnings

import pytest
from pymilvus import DataType, MilvusClient

from m3plugins import M3Encoder, ModelMismatchError
from m3plugins.cli.app import run
from m3plugins.encoding import Passages
from m3plugins.indexing import IndexNotFoundError
from m3plugins_milvus import MilvusHybridIndex
from m3plugins_milvus.blocks import block_row
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.identity import IDENTITY_KEY, Identity
from tests.tiny import random_documents, save_checkpoint


@pytest.fixture(scope="module")
def uri(encoder, tmp_path_factory):
    uri = tmp_path_factory.mktemp("milvus") / "identity.db"
    with MilvusHybridIndex.create("docs", encoder=encoder, uri=uri) as index:
        index.upsert(random_documents(3))
    return uri


@pytest.fixture
def other_identity(uri, encoder):
    """Rewrites the stored identity; puts it back after the test."""
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
        blocks: Collection = index._store.blocks
        (row,) = blocks.fetch([IDENTITY_KEY], ["data"]).values()

        def write(**changes):
            data = json.dumps({**json.loads(row["data"]), **changes})
            blocks.upsert([block_row(IDENTITY_KEY, data)])

        yield write
        write()


def test_the_same_encoder_opens_in_silence(uri, encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MilvusHybridIndex.open("docs", encoder=encoder, uri=uri).close()


def test_another_model_is_refused(uri, tmp_path):
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    with pytest.raises(ModelMismatchError, match="index 'docs' holds vectors of .*, the encoder is 'other'"):
        MilvusHybridIndex.open("docs", encoder=other, uri=uri)


def test_other_settings_warn(uri, encoder, other_identity):
    other_identity(settings={**encoder.settings, "dtype": "float8"})
    with pytest.warns(UserWarning, match="dtype='float8'") as caught:
        MilvusHybridIndex.open("docs", encoder=encoder, uri=uri).close()
    assert caught[0].filename == __file__


def test_another_length_is_refused_on_upsert_only(uri, encoder, other_identity):
    other_identity(document_max_length=100)
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
        assert index.count() == 3
        with pytest.raises(ValueError, match="document_max_length=100"):
            index.upsert(random_documents(1))


def test_an_index_that_cannot_be_read_is_named_and_the_others_are_listed(uri, encoder, other_identity, capsys):
    MilvusHybridIndex.open_or_create("other", encoder=encoder, uri=uri).close()
    other_identity(format=99)
    assert run(["list", "--uri", str(uri)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("other: 0 documents") and out.count("\n") == 1
    assert err.startswith("m3: docs: ") and "format 99" in err
    assert run(["list", "--uri", str(uri), "--json"]) == 1
    assert [info["name"] for info in json.loads(capsys.readouterr().out)["indexes"]] == ["other"]


def test_another_format_is_refused(uri, encoder, other_identity):
    other_identity(format=99)
    with pytest.raises(ValueError, match="format 99"):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=uri)


def test_what_is_there_is_not_made_again(uri, encoder):
    with pytest.raises(ValueError, match="open it with MilvusHybridIndex.open"):
        MilvusHybridIndex.create("docs", encoder=encoder, uri=uri)


def test_a_foreign_collection_is_refused(encoder, tmp_path):
    theirs = MilvusClient(str(tmp_path / "m3.db"))
    schema = theirs.create_schema()
    schema.add_field("key", DataType.VARCHAR, max_length=32, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    theirs.create_collection("foreign", schema=schema)
    with pytest.raises(ValueError, match="was not made by MilvusHybridIndex"):
        MilvusHybridIndex.open("foreign", encoder=encoder, uri=tmp_path / "m3.db")
    with pytest.raises(ValueError, match="already"):
        MilvusHybridIndex.create("foreign", encoder=encoder, uri=tmp_path / "m3.db")
    assert theirs.has_collection("foreign")
    theirs.close()


def test_an_alias_opens_the_index_it_names(uri, encoder):
    with MilvusHybridIndex.open("docs", encoder=encoder, uri=uri) as index:
        index._connection.client.create_alias("docs", "current")
        with MilvusHybridIndex.open("current", encoder=encoder, uri=uri) as other:
            assert other.count() == 3
            assert len(other.score(encoder.encode_queries(["fox"]), ["doc-1"])) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "has space"}, "letters, digits and underscores"),
        ({"name": "1st"}, "letters, digits and underscores"),
        ({"name": "x" * 252}, "at most 251"),
        ({"codec": "int4"}, "codec must be one of"),
        ({"dense_index": {"index_type": "DISKANN"}}, "must be one of FLAT"),
    ],
)
def test_options_are_checked(create, options, error):
    with pytest.raises(ValueError, match=error):
        create(**options)


def test_identity_survives_storage(scratch, encoder):
    assert Identity.read(scratch._store.blocks) == Identity.asked(encoder)


def test_all_options_survive_storage(create, encoder):
    options = {
        "codec": "binary",
        "dense_index": {"index_type": "HNSW", "params": {"M": 8}},
        "passages": Passages(40, 8),
        "tenant": "customer",
        "bm25": {"tokenizer": "standard", "filter": [{"type": "stop", "stop_words": ["the"]}]},
    }
    assert Identity.read(create(**options)._store.blocks) == Identity.asked(encoder, **options)


def test_lite_dropping_a_field_is_noticed(create, monkeypatch):
    from m3plugins_milvus import schema

    documents_schema = schema.documents_schema

    def with_a_field_that_lite_lacks(dim, **options):
        fields = documents_schema(dim, **options)
        fields.add_field("lost", DataType.INT64)
        return fields

    monkeypatch.setattr(MilvusClient, "describe_collection", lambda *_: {"fields": []})
    monkeypatch.setattr(schema, "documents_schema", with_a_field_that_lite_lacks)
    with pytest.raises(ValueError, match="without the field"):
        create()


def test_an_interrupted_creation_is_as_if_it_had_not_begun(create, encoder, tmp_path):
    """Killed ahead of the identity: there is no index, and the name is free."""
    index = create()
    index._store.blocks.delete([IDENTITY_KEY])
    index.close()
    with pytest.raises(IndexNotFoundError):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db")
    assert create().upsert(random_documents(5)).written == 5


def test_documents_whose_identity_is_lost_are_not_taken_for_an_interrupted_creation(create, encoder, tmp_path):
    index = create()
    index.upsert(random_documents(5))
    index._store.blocks.delete([IDENTITY_KEY])
    index.close()
    with pytest.raises(MilvusIndexError, match="the identity of the index 'docs' is lost"):
        MilvusHybridIndex.open("docs", encoder=encoder, uri=tmp_path / "m3.db")
    with pytest.raises(ValueError, match="already"):
        create()
