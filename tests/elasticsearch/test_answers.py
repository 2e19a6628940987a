"""An answer that some shards are missing from is an error that names them, whoever asked."""

from contextlib import closing

import pytest

from m3plugins import Document
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch.client import connect
from m3plugins_elasticsearch.enricher.dead_letters import DeadLetters
from tests.elasticsearch.proxy import Fault, proxied

pytestmark = pytest.mark.elasticsearch9

FAILURE = {"shard": 1, "index": "docs", "reason": {"type": "query_shard_exception", "reason": "it broke"}}
NAMED = r"1 of 2 shards are not in the answer; \[docs\]\[1\] query_shard_exception: it broke"


def partial(answer):
    """As Elasticsearch answers if one of two shards fails."""
    failed = {"_shards": {"total": 2, "successful": 1, "skipped": 0, "failed": 1, "failures": [FAILURE]}}
    if "responses" in answer:
        return {**answer, "responses": [{**each, **failed} for each in answer["responses"]]}
    return {**answer, **failed}


def untold(answer):
    return {**answer, "_shards": {"total": 2, "successful": 1, "failed": 1}}


@pytest.fixture(scope="module")
def proxy(es_url):
    with proxied(es_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def index(make, encoder, proxy):
    made = make()
    made.upsert([Document(id="a", text="a fox")])
    with ElasticsearchHybridIndex.open(made.name, encoder=encoder, uri=proxy.url) as index:
        yield index


READS = {
    "count": ("_count", lambda index, query: index.count()),
    "describe": ("_count", lambda index, query: index.describe()),
    "scan": ("_search", lambda index, query: list(index.scan())),
    "candidates": ("_msearch", lambda index, query: index.candidates(query, 3)),
    "score": ("_msearch", lambda index, query: index.score(query, ["a"])),
    "embeddings": ("_msearch", lambda index, query: index.embeddings(["a"])),
    "refresh": ("_refresh", lambda index, query: index.upsert([Document(id="b", text="a dog")])),
}


@pytest.mark.parametrize(("part", "read"), READS.values(), ids=READS)
def test_a_partial_answer_is_an_error_that_names_the_shards(index, proxy, encoder, part, read):
    query = encoder.encode_queries(["a fox"])
    proxy.expect(part, Fault(change=partial))
    with pytest.raises(ElasticsearchIndexError, match=NAMED):
        read(index, query)
    read(index, query)


def test_a_shard_that_is_on_its_way_is_waited_for(index, proxy):
    expected = index.count()
    proxy.expect("_count", Fault(change=untold), Fault(change=untold))
    assert index.count() == expected


def test_an_answer_that_was_cut_by_the_clusters_timeout_is_an_error(index, proxy):
    proxy.expect("_search", Fault(change=lambda answer: {**answer, "timed_out": True}))
    with pytest.raises(ElasticsearchIndexError, match=r"timed_out: raise search\.default_search_timeout"):
        list(index.scan())


@pytest.mark.parametrize(
    ("part", "ask"), [("_search", lambda letters: list(letters.scan())), ("_count", DeadLetters.count)]
)
def test_dead_letters_are_told_whole(proxy, es_name, part, ask):
    with closing(connect(proxy.url)) as connection:
        letters = DeadLetters(connection, es_name, "worker")
        letters.system_index.ensure()
        proxy.expect(part, Fault(change=partial))
        with pytest.raises(ElasticsearchIndexError, match=NAMED):
            ask(letters)
        connection.client.indices.delete(index=letters.system_index.name)
