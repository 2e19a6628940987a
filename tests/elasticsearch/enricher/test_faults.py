"""Whatever happens to the index or to Elasticsearch, a worker goes on, or says why it cannot."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError, Elasticsearch

from m3plugins import HybridRetriever
from m3plugins.indexing.errors import IndexNotFoundError
from m3plugins_elasticsearch import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher import Enricher
from m3plugins_elasticsearch.enricher.system_index import SystemIndex
from tests.elasticsearch.enricher.conftest import PROPERTIES, Owner, until, watching


def enriched(owner: Owner, name: str | None = None) -> int:
    """How many documents have vectors."""
    place = name or owner.name
    owner.client.indices.refresh(index=place)
    return int(owner.client.count(index=place, query={"exists": {"field": "m3.dense"}})["count"])


# The index


def test_an_index_made_anew_under_the_name_is_enriched_from_its_beginning(articles, attach, witness):
    articles.fill(10)
    enricher = Enricher(attach(), poll_s=0.1)
    with watching(enricher) as told:
        until(lambda: enriched(articles) == 10)
        articles.client.indices.delete(index=articles.name)
        until(lambda: told[-1].error)
        articles.make()
        articles.fill(4, text="another fox")
        until(lambda: enriched(articles) == 4)
        assert "no index" in next(one.error for one in told if one.error)
    assert told[-1].error == ""
    assert Enricher(attach()).verify().enriched == 4


def test_an_alias_that_is_pointed_at_another_index_is_followed(owner, attach):
    alias, blue, green = owner.name, f"{owner.name}-blue", f"{owner.name}-green"
    for name, count in ((blue, 3), (green, 5)):
        owner.make(name)
        owner.fill(count, index=name)
    point = {"add": {"index": blue, "alias": alias}}
    owner.client.indices.update_aliases(actions=[point])
    index = attach(alias)
    assert index.name == blue
    enricher = Enricher(index, follow=alias, poll_s=0.1)
    with watching(enricher) as told:
        until(lambda: enriched(owner, blue) == 3)
        owner.client.indices.update_aliases(
            actions=[{"remove": point["add"]}, {"add": {"index": green, "alias": alias}}]
        )
        until(lambda: enriched(owner, green) == 5)
        until(lambda: told[-1].index == green)
    assert enricher.verify().enriched == 5
    assert len(HybridRetriever(attach(alias)).search("fox")) == 5


def test_no_write_reaches_an_index_that_was_made_anew_meanwhile(articles, attach, witness):
    """Its documents have the same ids and sequence numbers, and its mapping would guess what our fields are."""
    articles.fill(3)

    def replace(texts):
        witness.hook = lambda texts: None
        articles.client.indices.delete(index=articles.name)
        articles.make()
        articles.fill(3, text="another fox")

    witness.hook = replace
    with pytest.raises(ElasticsearchIndexError, match="was dropped meanwhile"):
        Enricher(attach()).run_once()
    assert "m3" not in articles.client.indices.get_mapping(index=articles.name)[articles.name]["mappings"]["properties"]
    assert all("m3" not in articles.source(str(n)) for n in range(3))
    assert Enricher(attach()).run_once().enriched == 3


def test_an_index_made_anew_between_attaching_and_the_first_run_is_attached_to_again(articles, attach):
    index = attach()
    articles.client.indices.delete(index=articles.name)
    articles.make()
    articles.fill(3)
    enricher = Enricher(index)
    assert enricher.run_once().enriched == 3
    assert enricher.verify().complete


def test_a_run_says_that_the_index_is_gone(articles, enricher):
    articles.client.indices.delete(index=articles.name)
    with pytest.raises(IndexNotFoundError, match="no index"):
        enricher.run_once()
    with pytest.raises(IndexNotFoundError, match="no index"):
        enricher.verify()


@pytest.mark.parametrize("source", [{"excludes": ["views"]}, {"includes": ["body", "headline", "m3"]}], ids=str)
def test_an_index_whose_documents_a_partial_update_would_damage_is_refused(owner, attach, source):
    owner.make(mappings={"properties": PROPERTIES, "_source": source})
    owner.fill(1)
    with pytest.raises(ValueError, match="whole _source"):
        Enricher(attach()).run_once()


def test_an_index_with_a_write_block_is_waited_for_and_nothing_is_dead(articles, enricher, witness):
    articles.fill(5)
    block = {"index": articles.name, "settings": {"index.blocks.write": True}}
    witness.hook = lambda texts: articles.client.indices.put_settings(**block)
    with pytest.raises(ElasticsearchIndexError, match="FORBIDDEN"):
        enricher.run_once()
    witness.hook = lambda texts: None
    with watching(enricher) as told:
        until(lambda: told and "FORBIDDEN" in told[-1].error)
        articles.client.indices.put_settings(index=articles.name, settings={"index.blocks.write": False})
        until(lambda: enriched(articles) == 5)
    assert told[-1].dead == 0 and articles.letters() == {}


def test_a_name_that_comes_to_stand_for_several_indexes_ends_a_watch(owner, attach):
    alias, blue, green = owner.name, f"{owner.name}-blue", f"{owner.name}-green"
    for name in (blue, green):
        owner.make(name)
    owner.client.indices.put_alias(index=blue, name=alias)
    owner.fill(3, index=blue)
    said = watched_to_its_end(
        Enricher(attach(alias), follow=alias, poll_s=0.1),
        lambda: enriched(owner, blue) == 3,
        lambda: owner.client.indices.put_alias(index=green, name=alias),
    )
    assert "is of 2 indexes" in said


def test_an_index_made_anew_without_the_text_is_waited_for_while_it_is_empty(articles, attach):
    enricher = Enricher(attach(), poll_s=0.1)

    def remake():
        articles.client.indices.delete(index=articles.name)
        articles.client.indices.create(index=articles.name)

    with watching(enricher) as told:
        remake()
        until(lambda: "have no field" in told[-1].error)
        articles.put("1", body="a fox", headline="Foxes")
        until(lambda: enriched(articles) == 1)
        until(lambda: told[-1].error == "")

    def remake_otherwise():
        remake()
        articles.put("1", text="a fox")

    said = watched_to_its_end(enricher, lambda: enriched(articles) == 1, remake_otherwise)
    assert "have no field 'body'" in said


def watched_to_its_end(enricher: Enricher, holds, then) -> str:
    """What a watch says that ends by itself, once something is done after it came to hold."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(enricher.watch, stop)
        try:
            until(holds)
            then()
            with pytest.raises(ValueError) as caught:
                running.result(timeout=60)
        finally:
            stop.set()
    return str(caught.value)


# What we keep


def mapping(owner: Owner, place: str) -> dict:
    name = f"{place}.{owner.name}"
    return dict(owner.client.indices.get_mapping(index=name)[name]["mappings"])


def test_ledgers_that_somebody_deletes_are_made_anew_and_everything_is_looked_at_once_more(articles, attach, witness):
    articles.fill(10)
    enricher = Enricher(attach(), poll_s=0.1, lease_s=1)
    with watching(enricher) as told:
        until(lambda: enriched(articles) == 10)
        until(lambda: any(ledger["handed"] >= 9 for ledger in articles.ledgers()))
        kept, before = mapping(articles, "m3-enricher"), told[-1].unchanged
        articles.client.indices.delete(index=f"m3-enricher.{articles.name}")
        until(lambda: told[-1].unchanged >= before + 10)
        articles.fill(1, first=10)
        until(lambda: enriched(articles) == 11)
        assert any("m3-enricher" in one.error and "deleted meanwhile" in one.error for one in told)
        assert told[-1].error == ""
    assert mapping(articles, "m3-enricher") == kept
    assert len(witness.texts) == 11


def test_a_run_survives_that_the_ledgers_are_deleted(articles, enricher, witness):
    articles.fill(10)

    def delete(texts):
        witness.hook = lambda texts: None
        articles.client.indices.delete(index=f"m3-enricher.{articles.name}")

    witness.hook = delete
    report = enricher.run_once()
    assert report.completed and enricher.verify().enriched == 10
    assert mapping(articles, "m3-enricher")["dynamic"] == "false"


def test_dead_letters_that_somebody_deletes_are_made_anew_with_their_mapping(articles, enricher, witness):
    articles.fill(5)

    def fail(texts):
        articles.client.indices.delete(index=f"m3-dead-letters.{articles.name}", ignore_unavailable=True)
        if "the fox number 3" in texts:
            raise RuntimeError

    witness.hook = fail
    report = enricher.run_once()
    assert (report.enriched, report.dead, report.dead_letters) == (4, 1, 1)
    assert mapping(articles, "m3-dead-letters")["properties"]["reason"] == {"type": "text"}


def test_a_run_survives_that_the_dead_letters_are_deleted_while_one_is_written(
    articles, enricher, witness, monkeypatch
):
    articles.fill(5)
    witness.hook = lambda texts: {}["no"] if "the fox number 3" in texts else None
    ensure, deleted = SystemIndex.ensure, []

    def ensure_and_delete(system_index):
        ensure(system_index)
        if system_index.name == f"m3-dead-letters.{articles.name}" and witness.texts and not deleted:
            deleted.append(system_index.name)
            articles.client.indices.delete(index=system_index.name)

    monkeypatch.setattr(SystemIndex, "ensure", ensure_and_delete)
    report = enricher.run_once()
    assert deleted and report.completed
    assert (report.enriched, report.dead, report.dead_letters) == (4, 1, 1)


def test_what_we_keep_gets_its_aliases_back(articles, enricher):
    """A snapshot may be restored without."""
    articles.fill(3)
    enricher.run_once()
    for place in (f"m3-enricher.{articles.name}", f"m3-dead-letters.{articles.name}"):
        articles.client.indices.delete_alias(index=place, name=f"m3-write.{place}")
    articles.fill(3, first=3)
    assert enricher.run_once().enriched == 3


# Elasticsearch


def busy() -> ApiError:
    node = NodeConfig("http", "localhost", 9200)
    meta = ApiResponseMeta(status=429, http_version="1.1", headers=HttpHeaders(), duration=0.0, node=node)
    return ApiError("circuit_breaking_exception", meta, {"error": {"type": "circuit_breaking_exception"}})


def test_a_busy_node_is_waited_for(articles, enricher, witness, monkeypatch):
    articles.fill(5)
    calls = {"bulk": Elasticsearch.bulk, "search": Elasticsearch.search, "index": Elasticsearch.index}
    refused = dict.fromkeys(calls, 0)

    def flaky(name):
        def call(self, **arguments):
            refused[name] += 1
            if refused[name] <= 3:
                raise busy()
            return calls[name](self, **arguments)

        return call

    for name in calls:
        monkeypatch.setattr(Elasticsearch, name, flaky(name))
    assert enricher.run_once().enriched == 5
    assert min(refused.values()) > 3
    assert len(witness.texts) == 5


def test_a_run_gives_up_where_elasticsearch_stays_away(articles, attach):
    articles.fill(5)
    client = Elasticsearch(articles.url, max_retries=0)
    index = attach(client=client, uri=None, patience=0.5)
    real, client.transport.perform_request = client.transport.perform_request, unreachable
    try:
        with pytest.raises(ElasticsearchIndexError, match="no connection"):
            Enricher(index).run_once()
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            told = []
            running = pool.submit(Enricher(index, poll_s=0.1).watch, stop, told.append)
            until(lambda: len(told) > 1)
            client.transport.perform_request = real
            until(lambda: enriched(articles) == 5)
            stop.set()
            assert running.result().error == ""
    finally:
        client.transport.perform_request = real
        client.close()


def unreachable(*args, **kwargs):
    from elasticsearch import ConnectionError as CannotConnect

    raise CannotConnect("refused")


@pytest.mark.slow
def test_a_worker_that_watches_survives_that_the_node_is_killed(witness, tmp_path):
    archive = os.environ.get("M3_TEST_ES_ZIP")
    if not archive:
        reason = "kills a node of its own: set M3_TEST_ES_ZIP to a distribution of Elasticsearch"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    from m3plugins_elasticsearch import AttachedIndex
    from tests.elasticsearch.enricher.conftest import FIELDS
    from tests.elasticsearch.node import Node

    node = Node(Path(archive))
    try:
        url = node.start().url
        with Elasticsearch(url, retry_on_timeout=True, max_retries=10) as client:
            owner = Owner(client, url, "articles")
            owner.make(shards=2)
            owner.fill(40)
            with AttachedIndex.attach("articles", encoder=witness, fields=FIELDS, uri=url, patience=2) as index:
                enricher = Enricher(index, lease_s=2, poll_s=0.1, batch=8)
                killed = threading.Event()

                def kill(texts):
                    if len(witness.texts) > 15 and not killed.is_set():
                        killed.set()
                        node.kill()

                witness.hook = kill
                with watching(enricher) as told:
                    until(killed.is_set)
                    until(lambda: told[-1].error)
                    node.start()
                    owner.fill(10, first=40)
                    until(lambda: enriched(owner) == 50)
                assert enricher.verify().enriched == 50
                assert {source["body"] for source in owner.sources().values()} == {
                    f"the fox number {n}" for n in range(50)
                }
    finally:
        node.stop()


# The call


@pytest.mark.parametrize("option", [{"lease_s": 0}, {"poll_s": -1}, {"batch": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(articles, attach, option):
    with pytest.raises(ValueError, match="must be above 0"):
        Enricher(attach(), **option)


def test_an_encoder_that_cuts_elsewhere_is_refused(articles, attach, checkpoint):
    from m3plugins import M3Encoder

    attach()
    short = M3Encoder.from_pretrained(checkpoint, document_max_length=64)
    with pytest.raises(ValueError, match="cut at"):
        Enricher(attach(encoder=short, fields=None))
