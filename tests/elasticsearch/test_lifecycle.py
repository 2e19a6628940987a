"""Indexes of Elasticsearch, by name."""

from contextlib import closing

import pytest
from elasticsearch import Elasticsearch

from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex
from m3plugins_elasticsearch.mapping import META
from tests.core.indexing.lifecycle_suite import LifecycleSuite, in_processes


class TestLifecycle(LifecycleSuite):
    engine = ElasticsearchHybridIndex

    @pytest.fixture
    def where(self, es_url):
        return {"uri": es_url}

    @pytest.fixture
    def named(self, es_name):
        return lambda name: f"{es_name}-{name}"

    @pytest.fixture
    def client(self, es_url):
        with closing(Elasticsearch(es_url)) as client:
            yield client

    @pytest.fixture
    def stored(self, client):
        def read(index):
            meta = client.indices.get_mapping(index=index.name)[index.name]["mappings"]["_meta"]
            return meta[META], lambda data: client.indices.put_mapping(index=index.name, meta={**meta, META: data})

        return read

    def test_processes_that_begin_at_once_have_one_index(self, encoder, es_url, name, reopen):
        assert in_processes(ElasticsearchHybridIndex, encoder, name, es_url, 3) == []
        with reopen(name) as index:
            assert {document.id for document in index.scan()} == {"doc-0", "doc-1", "doc-2"}

    def test_indexes_of_others_are_not_listed_and_not_dropped(self, client, encoder, es_url, named, make):
        make(named("ours"))
        for name in ("theirs", "attached"):
            client.indices.create(index=named(name), mappings={"properties": {"body": {"type": "text"}}})
        AttachedIndex.attach(named("attached"), encoder=encoder, uri=es_url, fields={"text": "body"}).close()
        assert [name for name in self.engine.list_indexes(uri=es_url) if name.startswith(named(""))] == [named("ours")]
        for name in ("theirs", "attached"):
            with pytest.raises(ValueError, match="was not made by ElasticsearchHybridIndex"):
                self.engine.drop_index(named(name), uri=es_url)
            assert client.indices.exists(index=named(name))

    def test_an_index_made_before_names_were_recorded_opens(self, make, name, client, opened):
        stored = make(name, codec="int8").identity.to_dict()
        del stored["model"]
        client.indices.put_mapping(index=name, meta={META: stored})
        assert (opened().identity.model, opened().identity.codec, opened().describe().model) == ("", "int8", "")

    def test_other_typed_metadata_than_the_index_has_are_refused(self, opened):
        fields = {"year": {"type": "integer"}}
        opened(metadata_fields=fields, dense_index="flat", bm25="simple")
        assert opened(metadata_fields=fields, dense_index="flat", bm25="simple").count() == 0
        for options in (
            {"metadata_fields": {"year": {"type": "long"}}},
            {"dense_index": "hnsw"},
            {"bm25": "whitespace"},
        ):
            (option,) = options
            told = f"is there and has {option}=.* got .*; leave {option} out to keep what it has"
            with pytest.raises(ValueError, match=told):
                opened(**options)
