"""What an index remembers of itself, and what is refused because of it."""

import warnings
from contextlib import closing

import pytest
from elasticsearch import BadRequestError, Elasticsearch

from m3plugins import Document, M3Encoder, ModelMismatchError
from m3plugins.encoding import Passages
from m3plugins.indexing import IndexNotFoundError
from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.identity import Identity
from m3plugins_elasticsearch.lifecycle import find, stored_identity
from m3plugins_elasticsearch.mapping import META, VECTORS, check_name
from tests.elasticsearch.conftest import Create
from tests.tiny import random_documents, save_checkpoint

pytestmark = pytest.mark.elasticsearch9


@pytest.fixture(scope="module")
def client(es_url):
    with closing(Elasticsearch(es_url)) as client:
        yield client


@pytest.fixture(scope="module")
def docs(make: Create) -> ElasticsearchHybridIndex:
    index = make()
    index.upsert(random_documents(3))
    return index


@pytest.fixture
def other_identity(docs, client):
    """Rewrites the stored identity; puts it back after the test."""

    def write(**changes):
        client.indices.put_mapping(index=docs.name, meta={META: {**docs.identity.to_dict(), **changes}})

    yield write
    write()


def read(index: ElasticsearchHybridIndex) -> Identity | None:
    return stored_identity(*find(index._connection, index.name))


def test_the_same_encoder_opens_in_silence(docs, encoder, es_url):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ElasticsearchHybridIndex.open(docs.name, encoder=encoder, uri=es_url).close()


def test_another_model_is_refused(docs, es_url, tmp_path):
    other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
    with pytest.raises(ModelMismatchError, match=f"index '{docs.name}' holds vectors of .*, the encoder is 'other'"):
        ElasticsearchHybridIndex.open(docs.name, encoder=other, uri=es_url)


def test_other_settings_warn(docs, encoder, es_url, other_identity):
    other_identity(settings={**encoder.settings, "dtype": "float8"})
    with pytest.warns(UserWarning, match="dtype='float8'") as caught:
        ElasticsearchHybridIndex.open(docs.name, encoder=encoder, uri=es_url).close()
    assert caught[0].filename == __file__


def test_another_length_is_refused_on_upsert_only(docs, encoder, es_url, other_identity):
    other_identity(document_max_length=100)
    with ElasticsearchHybridIndex.open(docs.name, encoder=encoder, uri=es_url) as index:
        assert index.count() == 3
        with pytest.raises(ValueError, match="document_max_length=100"):
            index.upsert(random_documents(1))


def test_another_format_is_refused(docs, encoder, es_url, other_identity):
    other_identity(format=99, options_of_the_future=True)
    with pytest.raises(ValueError, match="format 99, this m3plugins-elasticsearch reads 1 and 2; use its version"):
        ElasticsearchHybridIndex.open(docs.name, encoder=encoder, uri=es_url)


def test_what_is_there_is_not_made_again(docs, encoder, es_url):
    with pytest.raises(ValueError, match="already; open it with ElasticsearchHybridIndex.open"):
        ElasticsearchHybridIndex.create(docs.name, encoder=encoder, uri=es_url)
    assert docs.count() == 3


def test_a_foreign_index_is_refused_and_left_alone(client, encoder, es_url, es_name):
    client.index(index=es_name, id="1", document={"text": "theirs"}, refresh=True)
    before = client.indices.get(index=es_name).body
    with pytest.raises(ValueError, match="was not made by ElasticsearchHybridIndex.create; use AttachedIndex.attach"):
        ElasticsearchHybridIndex.open(es_name, encoder=encoder, uri=es_url)
    with pytest.raises(ValueError, match="already"):
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=es_url)
    assert client.indices.get(index=es_name).body == before
    assert client.count(index=es_name)["count"] == 1


def test_an_index_that_is_attached_to_is_not_one_of_ours_and_the_other_way_round(
    docs, client, encoder, es_url, es_name
):
    client.indices.create(index=es_name, mappings={"properties": {"body": {"type": "text"}}})
    AttachedIndex.attach(es_name, encoder=encoder, uri=es_url, fields={"text": "body"}).close()
    with pytest.raises(ValueError, match="was not made by ElasticsearchHybridIndex.create; use AttachedIndex.attach"):
        ElasticsearchHybridIndex.open(es_name, encoder=encoder, uri=es_url)
    with pytest.raises(ValueError, match="is one of ours; open it with ElasticsearchHybridIndex.open"):
        AttachedIndex.attach(docs.name, encoder=encoder, uri=es_url, fields={"text": "text"})


def test_an_index_that_is_not_there_is_named(encoder, es_url):
    with pytest.raises(IndexNotFoundError, match="there is no index 'no-such-index'.*make it with"):
        ElasticsearchHybridIndex.open("no-such-index", encoder=encoder, uri=es_url)


def test_an_alias_opens_the_index_it_names(docs, encoder, es_url, es_name):
    assert docs.swap(es_name) is None
    with ElasticsearchHybridIndex.open(es_name, encoder=encoder, uri=es_url) as other:
        assert (other.name, other.count()) == (docs.name, 3)
        assert len(other.score(encoder.encode_queries(["fox"]), ["doc-1"])) == 1
        assert other.upsert(random_documents(3)).unchanged == 3


def test_an_alias_of_several_indexes_is_refused(docs, make: Create, client, encoder, es_url, es_name):
    second = make()
    for index in (docs, second):
        client.indices.put_alias(index=index.name, name=es_name)
    with pytest.raises(ValueError, match=f"the alias '{es_name}' is of 2 indexes, .*; open one of them"):
        ElasticsearchHybridIndex.open(es_name, encoder=encoder, uri=es_url)
    with pytest.raises(ValueError, match="is of 2 indexes"):
        AttachedIndex.attach(es_name, encoder=encoder, uri=es_url, fields={"text": "text"})


def test_the_name_of_an_alias_is_taken(docs, encoder, es_url, es_name):
    docs.swap(es_name)
    with pytest.raises(ValueError, match="already"):
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=es_url)


@pytest.mark.parametrize(
    "name", ["A", "a b", "_x", "-x", "+x", "x" * 247, "é" * 124, "", ".", "..", "a*", "a,b", "a:b", "a#b", "a/b", 'a"']
)
def test_names_that_elasticsearch_refuses_or_reads_otherwise_are_refused(name, encoder, es_url):
    for verb in (ElasticsearchHybridIndex.create, ElasticsearchHybridIndex.open):
        with pytest.raises(ValueError, match="an index's name must be in lower case"):
            verb(name, encoder=encoder, uri=es_url)


def test_a_name_may_be_as_long_as_is_said(make: Create, client, es_name):
    name = es_name + "é" * ((246 - len(es_name)) // 2)
    assert len(check_name(name).encode()) in (245, 246)
    index = make(name)
    assert index.upsert(random_documents(1)).written == 1
    index.drop()
    assert not client.indices.exists(index=name)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"codec": "int4"}, "codec must be one of"),
        ({"dense_index": "diskann"}, "dense_index must be .*flat, hnsw"),
        ({"dense_index": {"m": 16}}, "dense_index must be .*flat, hnsw"),
        ({"dense_index": {"type": "hnsw", "x": 1}}, "unsupported parameters: .x : 1."),
        ({"dense_index": "bbq_hnsw"}, "bbq_hnsw does not support dimensions fewer than 64; provided=32"),
        ({"bm25": "nope"}, r"analyzer .nope. has not been configured"),
        ({"settings": {"nope": 1}}, r"unknown setting .index.nope."),
        ({"settings": {"number_of_shards": 0}}, "must be >= 1"),
        (
            {"metadata_fields": {"a": {"type": "semantic_text"}}},
            "The mapper type .semantic_text. declared on field .a.",
        ),
    ],
    ids=str,
)
def test_options_are_checked_and_nothing_is_made(client, encoder, es_url, es_name, options, error):
    with pytest.raises(ValueError, match=error) as caught:
        ElasticsearchHybridIndex.create(es_name, encoder=encoder, uri=es_url, **options)
    assert "\n" not in str(caught.value)
    assert not client.indices.exists(index=es_name)


def test_identity_survives_storage(scratch, encoder):
    assert read(scratch) == scratch.identity == Identity.asked(encoder)


def test_all_options_survive_storage(make: Create, encoder):
    options = {
        "codec": "binary",
        "dense_index": {"type": "int8_hnsw", "m": 8, "ef_construction": 50},
        "passages": Passages(40, 8),
        "bm25": {"type": "standard", "max_token_length": 9},
    }
    fields = {"published": {"type": "date", "format": "yyyy"}}
    index = make(**options, metadata_fields=fields)
    assert read(index) == index.identity == Identity.asked(encoder, **options, metadata_fields=fields)


def test_the_mapping_takes_what_we_write_and_nothing_else(docs, client):
    mapping = client.indices.get_mapping(index=docs.name)[docs.name]["mappings"]
    assert mapping["dynamic"] == "strict"
    assert set(VECTORS) < set(mapping["_source"]["excludes"])
    properties = mapping["properties"]
    assert properties["dense"]["index_options"]["type"] == "int8_hnsw"
    assert (properties["dense"]["similarity"], properties["dense"]["dims"]) == ("dot_product", docs.encoder.dim)
    assert properties["sparse"]["index_options"] == {"prune": False}
    source = client.get(index=docs.name, id="doc-1")["_source"]
    assert not source.keys() & {*VECTORS, "facets"}


def test_a_document_that_someone_else_wrote_past_the_mapping_is_refused(docs, client):
    with pytest.raises(BadRequestError, match="strict_dynamic_mapping_exception"):
        client.index(index=docs.name, id="x", document={"text": "a", "unknown": 1})


def test_probing_tells_what_the_cluster_says(docs):
    able = docs.probe()
    assert able.health in ("green", "yellow") and able.fault is None
    assert not able.version or able.version >= (8, 19)


def test_an_old_index_is_not_made_anew_by_a_write(make: Create, client):
    """Its name would then be an index whose sparse field is an object of floats."""
    index = make()
    name = index.name
    client.indices.delete(index=name)
    for change in (
        lambda: index.upsert([Document(id="a", text="fox")]),
        lambda: index.update_metadata({"a": {"n": 1}}),
        lambda: index.delete(["a"]),
    ):
        with pytest.raises(ElasticsearchIndexError) as caught:
            change()
        assert "\n" not in str(caught.value)
        assert not client.indices.exists(index=name)
