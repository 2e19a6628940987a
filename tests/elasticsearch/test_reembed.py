"""Another model, and an alias that moves to its index, on Elasticsearch."""

import pytest
from elasticsearch import Elasticsearch

from tests.core.indexing.reembed_suite import ReembedSuite, by_id
from tests.tiny import random_documents

pytestmark = pytest.mark.elasticsearch9


class TestReembed(ReembedSuite):
    @pytest.fixture
    def named(self, es_name):
        return lambda name: f"{es_name}-{name}"

    def test_the_new_index_has_the_settings_of_the_old_one(self, make, named, other, green_name):
        analyzer = {"type": "standard", "stopwords": ["the"]}
        options = {
            "codec": "binary",
            "dense_index": "flat",
            "bm25": analyzer,
            "metadata_fields": {"n": {"type": "long"}},
        }
        settings = {"number_of_shards": 2, "refresh_interval": "7s"}
        index = make(named("blue"), settings=settings, refresh=False, **options)
        index.upsert(random_documents(5))
        with index.reembed(other, into=green_name).index as green:
            assert green.identity == index.identity.of_another(other)
            settings = green._connection.client.indices.get_settings(index=green.name)[green.name]["settings"]["index"]
            assert (settings["number_of_shards"], settings["refresh_interval"]) == ("2", "7s")
            assert settings["analysis"]["analyzer"]["m3_bm25"] == analyzer
            assert by_id(green).keys() == {document.id for document in random_documents(5)}
            assert green.writer.refresh is False

    def test_a_dropped_index_leaves_nothing(self, make, named, es_url, es_name):
        make(named("again")).drop()
        with Elasticsearch(es_url) as client:
            assert client.indices.get(index=f"*{es_name}*", expand_wildcards="all").body == {}

    def test_a_swap_takes_the_alias_from_every_index_that_had_it(self, blue, make, named, live):
        second, third = make(named("second")), make(named("third"))
        second._connection.client.indices.put_alias(index=second.name, name=live)
        assert third.swap(live) == f"{blue.name}, {second.name}"
        assert third.swap(live) == third.name
        assert blue.swap(live) == third.name
