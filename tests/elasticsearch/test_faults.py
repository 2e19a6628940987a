"""What goes wrong at a node, and what the user sees: one line, with the fix; what was acknowledged is never lost.

Faults of documents (ids, weights, vectors, filters) are in `test_bad_input`, those of networks in `test_bulk`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever, HybridWeights
from m3plugins.indexing import IndexNotFoundError
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import AttachedIndex, ElasticsearchHybridIndex, ElasticsearchIndexError, writer
from tests.elasticsearch.node import SECURITY, Node, archive
from tests.elasticsearch.proxy import Fault, proxied
from tests.tiny import random_documents

pytestmark = pytest.mark.slow

PASSWORD = "se#cret"
MEGABYTE = 1 << 20
ROLES = """
writer:
  cluster: [monitor]
  indices: [{names: ["mine-*", "m3-write.mine-*"], privileges: [all]}]
bare:
  indices: [{names: ["mine-*"], privileges: [all]}]
advised:
  indices:
  - {names: ["mine-*", "m3-write.mine-*"], privileges: [read, write, maintenance, view_index_metadata]}
reader:
  indices: [{names: ["mine-*", "m3-write.mine-*"], privileges: [read, view_index_metadata]}]
nobody: {}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """With security, a small http.max_content_length, and room for one waiting write a thread pool."""
    settings = {**SECURITY, "http.max_content_length": "1mb", "thread_pool.write.queue_size": "1"}
    node = Node(archive(), settings)
    try:
        node.add_users(
            PASSWORD, {"other": "nobody", **{role: role for role in ("writer", "bare", "advised", "reader")}}, ROLES
        )
        yield node.start()
    finally:
        node.stop()


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[Elasticsearch]:
    with closing(Elasticsearch(node.url, basic_auth=("admin", PASSWORD), request_timeout=60)) as client:
        yield client


@pytest.fixture
def name(client: Elasticsearch) -> Iterator[str]:
    name = f"mine-{uuid.uuid4().hex}"
    yield name
    client.indices.delete(index=name, ignore_unavailable=True)


@pytest.fixture
def create(node: Node, name: str, encoder) -> Iterator[object]:
    made = []

    def new(user="admin", **options):
        options = {"encoder": encoder, "uri": node.url, "token": f"{user}:{PASSWORD}", "patience": 20, **options}
        made.append(ElasticsearchHybridIndex.create(name, **options))
        return made[-1]

    yield new
    for index in made:
        index.close()


@pytest.fixture
def opened(node: Node, name: str, encoder) -> Iterator[object]:
    made = []

    def new(user="admin", **options):
        options = {"encoder": encoder, "uri": node.url, "token": f"{user}:{PASSWORD}", **options}
        made.append(ElasticsearchHybridIndex.open(name, **options))
        return made[-1]

    yield new
    for index in made:
        index.close()


def told(action, match: str, kind: type[Exception] = ElasticsearchIndexError) -> str:
    """The error's message: a line, which matches and names no password."""
    with pytest.raises(kind, match=match) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and PASSWORD not in message
    return message


def by_id(documents) -> list[Document]:
    return sorted(documents, key=lambda document: document.id)


# Who one is


@pytest.mark.parametrize("token", ["admin:wrong", "nobody:here", "bm90OmFwaS1rZXk=", None], ids=str)
def test_wrong_credentials(create, opened, token):
    for verb in (create, opened):
        told(lambda verb=verb: verb(token=token), "Elasticsearch refuses the credentials; pass token")


def test_credentials_in_the_address(node, name, encoder):
    uri = node.url.replace("://", "://admin:wrong%23password@")
    message = told(lambda: ElasticsearchHybridIndex.create(name, encoder=encoder, uri=uri), "refuses the credentials")
    assert "wrong" not in message


def test_a_user_of_one_index_can_do_everything_with_it(create):
    index = create("writer", bm25="standard")
    assert index.upsert(random_documents(10)).written == 10
    assert len(HybridRetriever(index).search("fox", k=3)) == 3
    index.drop()


def test_a_user_with_the_privileges_that_we_advise_can_read_and_write(create, opened):
    create()
    index = opened("advised")
    assert index.upsert(random_documents(10)).written == 10
    assert index.update_metadata({"doc-1": {"n": 1}}).written == 1
    assert len(HybridRetriever(index).search("fox", k=3)) == 3
    assert index.count({"term": {"parent_id": "parent-3"}}) == 1
    assert index.delete(["doc-1"]) == 1 == index.delete(filter={"term": {"parent_id": "parent-3"}})
    assert len(list(index.scan(with_embeddings=True))) == 8
    told(index.drop, "unauthorized for user .advised.")


def test_a_forbidden_index(create, opened, client, name):
    told(lambda: create("other"), "unauthorized for user .other.*grant this user read, write, maintenance")
    assert not client.indices.exists(index=name)
    index = create()
    index.upsert(random_documents(3))
    told(lambda: opened("other"), "unauthorized for user .other.*; grant this user")


def test_a_user_who_may_only_read(create, opened):
    documents = random_documents(5)
    create().upsert(documents)
    index = opened("reader")
    assert len(HybridRetriever(index).search("fox", k=3)) == 3
    assert by_id(index.scan()) == by_id(documents)
    acknowledged = []
    told(
        lambda: index.upsert([*documents, Document(id="new", text="new")], on_ack=acknowledged.extend),
        "unauthorized for user .reader.*; grant this user read, write",
    )
    assert sorted(acknowledged) == [document.id for document in documents]  # what is there unchanged
    told(lambda: index.delete(["doc-1"]), "unauthorized")
    told(lambda: index.drop(), "unauthorized")
    assert by_id(index.scan()) == by_id(documents)


def test_a_user_without_the_alias_that_we_write_by(create, opened):
    """An alias needs a grant of its own."""
    create().upsert(random_documents(2))
    index = opened("bare")
    assert index.count() == 2
    (failure,) = index.upsert([Document(id="new", text="new")]).failed
    assert "unauthorized for user [bare]" in failure.reason and "on its alias m3-write.INDEX" in failure.reason


# What is not there, or not ours


def test_an_index_that_is_missing(opened, node, name, encoder):
    told(opened, f"there is no index '{name}'.*make it with", IndexNotFoundError)
    told(lambda: opened("writer"), "there is no index", IndexNotFoundError)
    told(lambda: opened("reader"), "there is no index", IndexNotFoundError)


def test_an_index_that_is_dropped_while_it_is_written_to(create, client, name):
    index, acknowledged = create(), []

    def on_ack(ids):
        acknowledged.extend(ids)
        client.indices.delete(index=name, ignore_unavailable=True)

    stream = (Document(id=str(number), text=f"fox {number}") for number in range(2000))
    told(lambda: index.upsert(stream, on_ack=on_ack), "no such index|dropped meanwhile")
    assert 0 < len(acknowledged) < 2000
    for verb in (index.count, lambda: index.upsert([Document(id="a", text="a")]), lambda: list(index.scan())):
        told(verb, "no such index.*dropped or renamed")
    told(lambda: index.delete(["a"]), f"cannot write to '{name}': the index was dropped meanwhile")
    assert not client.indices.exists(index=name) and not client.indices.exists(index=f"m3-write.{name}")


def test_a_foreign_mapping(create, opened, client, name, node, encoder):
    client.indices.create(
        index=name, mappings={"properties": {"text": {"type": "keyword"}, "dense": {"type": "float"}}}
    )
    told(opened, "was not made by ElasticsearchHybridIndex.create; use AttachedIndex.attach", ValueError)
    told(create, "there is an index .* already; open it with ElasticsearchHybridIndex.open", ValueError)
    attach = {"encoder": encoder, "uri": node.url, "token": f"admin:{PASSWORD}"}
    with AttachedIndex.attach(name, fields={"text": "text"}, **attach) as index:
        assert index.count() == 0


# What does not fit


def test_a_document_over_the_limit_of_a_request(create, embedding, monkeypatch):
    """The node answers and hangs up while it is still being sent to."""
    index = create()
    large = [Document(id=f"large {size}", text="x" * size) for size in (2 * MEGABYTE, 30 * MEGABYTE)]
    documents = [*random_documents(20), *large, *random_documents(20, seed=1)[:5]]
    small = {document.id: document for document in documents if document not in large}
    began, acknowledged = time.monotonic(), []
    outputs = [embedding] * len(documents)
    report = index.upsert(documents, embeddings=outputs, on_ack=acknowledged.extend)
    assert {failure.id for failure in report.failed} == {document.id for document in large}
    for failure in report.failed:
        assert (
            "over the node's http.max_content_length; raise that setting, cut the document into pass" in failure.reason
        )
    assert set(acknowledged) == small.keys()
    assert by_id(index.scan()) == by_id(small.values())
    assert time.monotonic() - began < 30


def test_a_batch_over_the_limit_of_a_request_is_sent_in_parts(create, embedding):
    index = create()
    documents = [Document(id=str(number), text="x" * 300_000) for number in range(12)]
    assert index.upsert(documents, embeddings=[embedding] * 12).failed == []
    assert index.count() == 12


def test_a_query_over_the_limit_of_a_request(create):
    index = create()
    wanted = {"terms": {"id": [f"{number:0500}" for number in range(4000)]}}
    told(lambda: index.count(wanted), "over the node's http.max_content_length; raise it there")


# A node that is busy, away or closed


def test_a_storm_of_refusals(create, client, name, encoder, node):
    """Eight writers, and room for one waiting write: items are refused, and all of them are stored in the end."""
    index = create(settings={"number_of_shards": 4})
    output = encoder.encode_documents(["fox"])
    before = rejected(client)
    acknowledged: list[str] = []

    def write(worker: int) -> None:
        documents = [Document(id=f"{worker}-{number}", text="x" * 2000) for number in range(150)]
        report = index.upsert(documents, embeddings=[output] * 150, on_ack=acknowledged.extend)
        assert (report.written, report.failed) == (150, [])

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(write, range(8)))
    assert rejected(client) > before
    assert index.count() == len(set(acknowledged)) == len(acknowledged) == 1200


def rejected(client: Elasticsearch) -> int:
    (stats,) = client.nodes.stats(metric="thread_pool")["nodes"].values()
    return stats["thread_pool"]["write"]["rejected"]


def test_a_node_that_is_gone_in_the_middle_of_a_search(create, opened, node, monkeypatch):
    create().upsert(random_documents(20))
    with proxied(node.url) as proxy:
        index = opened(uri=proxy.url)
        store = replace(index.reader.store, connection=replace(index._connection, waits=1.0))
        monkeypatch.setattr(index.reader, "store", store)
        proxy.expect("_msearch", None, Fault(cut=True))
        proxy.down = False
        retriever = HybridRetriever(index)
        assert len(retriever.search("fox", k=3)) == 3  # one lost connection does not show
        gone = threading.Timer(0.1, lambda: setattr(proxy, "down", True))
        gone.start()

        def search_on():
            while True:
                retriever.search("fox", k=3)

        told(search_on, "no connection to Elasticsearch .*; check the address and that the node is up")
        proxy.down = False
        assert len(retriever.search("fox", k=3)) == 3


def test_a_node_that_does_not_answer_in_time(create, opened, node, monkeypatch):
    create().upsert(random_documents(5))
    with proxied(node.url) as proxy:
        index = opened(uri=proxy.url, client_options={"request_timeout": 0.3})
        slow = Fault(forward=True, delay=1.0)
        store = replace(index.reader.store, connection=replace(index._connection, waits=0.1))
        monkeypatch.setattr(index.reader, "store", store)
        proxy.expect("_msearch", *[slow] * 5)
        message = "did not answer in time; raise request_timeout in client_options, or try again"
        told(lambda: HybridRetriever(index).search("fox"), message)
        proxy.expect("_bulk", slow)
        assert index.upsert([Document(id="new", text="new")]).written == 1  # in spite of it


@pytest.mark.parametrize("block", ["write", "read_only"])
def test_a_block_on_writes(create, client, name, block):
    documents = random_documents(4)
    index, acknowledged = create(), []
    index.upsert(documents)
    client.indices.add_block(index=name, block=block)
    try:
        changed = [*documents[1:], Document(id="new", text="new"), replace(documents[0], metadata={"n": 1})]
        report = index.upsert(changed, on_ack=acknowledged.extend)
        assert {failure.id for failure in report.failed} == {"new", "doc-0"}
        for failure in report.failed:
            assert "FORBIDDEN" in failure.reason and "lift that block of the index" in failure.reason
        assert len(acknowledged) == report.unchanged == 3
        (failure,) = index.update_metadata({"doc-1": {"n": 1}}).failed
        assert "lift that block of the index" in failure.reason
        told(lambda: index.delete(["doc-1"]), "1 of 1 documents could not be deleted .*lift that block of the index")
        assert by_id(index.scan()) == by_id(documents)
    finally:
        client.indices.put_settings(index=name, settings={f"index.blocks.{block}": None})
    assert index.upsert(changed).failed == []


def test_a_disk_that_is_full(create, client, name):
    """Elasticsearch says 429 to writes then: that is waited for, once."""
    index = create(patience=0.5)
    index.upsert(random_documents(4))
    full = {"index.blocks.read_only_allow_delete": True}
    client.indices.put_settings(index=name, settings=full)
    new = (Document(id=f"new {number}", text=f"fox {number}") for number in range(600))
    began = time.monotonic()
    told(lambda: index.upsert(new), "disk usage exceeded flood-stage watermark.*free disk space")
    assert time.monotonic() - began < 20
    client.indices.put_settings(index=name, settings={"index.blocks.read_only_allow_delete": None})
    assert index.count() == 4


def test_documents_too_large_for_the_memory_of_a_node_are_scanned_in_smaller_pages(create, client, embedding):
    index = create()
    documents = [Document(id=str(number), text=f"{number} " + "x" * 500_000) for number in range(60)]
    assert index.upsert(documents, embeddings=[embedding] * 60).failed == []
    client.cluster.put_settings(persistent={"indices.breaker.request.limit": "20mb"})
    try:
        assert by_id(index.scan()) == by_id(documents)
        assert by_id(index.get([document.id for document in documents])) == by_id(documents)
    finally:
        client.cluster.put_settings(persistent={"indices.breaker.request.limit": None})


def test_a_cluster_that_allows_no_expensive_queries(create, client):
    """Tokens are compared by order, beginning or part then; all else is as ever."""
    index = create(bm25="standard")
    documents = [Document(id=str(n), text=f"fox {n}", metadata={"n": n, "lang": "en"}) for n in range(5)]
    client.cluster.put_settings(persistent={"search.allow_expensive_queries": False})
    try:
        assert index.upsert(documents).written == 5
        assert index.update_metadata({"4": {"n": 4, "lang": "de"}}).written == 1
        weights = HybridWeights(bm25=0.1)
        cheap = filters.and_(filters.eq("lang", "en"), filters.or_(filters.ne("n", 1), filters.exists("x")))
        for wanted, count in ((None, 5), (cheap, 3), (filters.in_("n", [1, 2]), 2), ({"term": {"metadata.n": "3"}}, 1)):
            assert index.count(wanted) == len(list(index.scan(wanted))) == count
            assert len(HybridRetriever(index, weights=weights).search("fox", filter=wanted)) == count
        for wanted in (
            filters.gt("n", 3),
            filters.lte("lang", "en"),
            filters.prefix("lang", "e"),
            filters.contains("lang", "n"),
        ):
            for verb in (
                lambda w=wanted: index.count(w),
                lambda w=wanted: HybridRetriever(index).search("fox", filter=w),
            ):
                told(
                    verb,
                    "queries .*'search.allow_expensive_queries' is set to false.*; set it to true.* filters are eq,",
                )
        assert index.delete(filter=filters.eq("n", 2)) == 1 == index.delete(["3"])
    finally:
        client.cluster.put_settings(persistent={"search.allow_expensive_queries": None})


def test_an_index_that_is_closed_at_the_server(create, opened, client, name, encoder):
    documents = random_documents(4)
    index = create()
    index.upsert(documents)
    client.indices.close(index=name)
    query = encoder.encode_queries(["fox"])
    for verb in (
        lambda: index.upsert([Document(id="new", text="new")]),
        lambda: index.get(["doc-1"]),
        index.count,
        lambda: list(index.scan()),
        lambda: index.candidates(query, 3),
        lambda: index.score(query, ["doc-1"]),
        lambda: index.delete(["doc-1"]),
        lambda: opened().count(),
    ):
        told(verb, "closed; open it with POST /INDEX/_open")
    client.indices.open(index=name)
    assert by_id(index.scan()) == by_id(documents)


def test_an_index_whose_shard_has_no_node(create, opened, client, name, encoder):
    """Red: copied by mapping and settings, and told to live on a node that there is not."""
    index = create()
    twin = client.indices.get(index=name)[name]
    index.drop()
    settings = {"index.routing.allocation.require._name": "nowhere"}
    client.indices.create(
        index=name,
        mappings=twin["mappings"],
        settings=settings,
        aliases=twin["aliases"],
        wait_for_active_shards=0,
    )
    index = opened(patience=1.0, client_options={"request_timeout": 3})
    patient = replace(index._connection, waits=0.3)
    index.reader.store = replace(index.reader.store, connection=patient)
    query = encoder.encode_queries(["fox"])
    for verb in (
        lambda: index.get(["doc-1"]),
        index.count,
        lambda: index.candidates(query, 3),
        lambda: index.score(query, ["doc-1"]),
        lambda: list(index.scan()),
        lambda: index.upsert([Document(id="new", text="new")]),
    ):
        told(verb, "a shard has no node, see GET /_cluster/health")
    client.indices.put_settings(index=name, settings={"index.routing.allocation.require._name": None})
    client.cluster.health(index=name, wait_for_status="yellow")
    assert index.upsert(random_documents(3)).written == 3


# Two at once


def test_a_version_conflict_of_new_metadata(create, monkeypatch):
    """Someone else writes between our read and our write: the document is read again, and the later edit stays."""
    index = create()
    index.upsert([Document(id="a", text="a fox"), Document(id="b", text="a dog")])
    annotated = writer._annotated

    def late(hit, *new):
        if hit.id == "a":
            with monkeypatch.context() as patch:
                patch.setattr(writer, "_annotated", annotated)
                index.update_metadata({"a": {"theirs": 1}})
        return annotated(hit, *new)

    monkeypatch.setattr(writer, "_annotated", late)
    acknowledged = []
    report = index.update_metadata({"a": {"ours": 1}, "b": {"ours": 1}}, on_ack=acknowledged.extend)
    assert (report.written, sorted(acknowledged), report.failed) == (2, ["a", "b"], [])
    assert [document.metadata for document in index.get(["a", "b"])] == [{"ours": 1}, {"ours": 1}]


def test_a_misspelt_field(create):
    index = create()
    index.upsert(random_documents(3))
    told(lambda: index.count({"term": {"parnt_id": "x"}}), "got 'parnt_id'.*did you mean 'parent_id'", ValueError)
