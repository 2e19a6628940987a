"""Bulk writes: chunks, order, every item's fate, and patience; a proxy in front of the node makes the faults."""

import json
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from elasticsearch import Elasticsearch
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from m3plugins_elasticsearch import bulk as bulk_module
from m3plugins_elasticsearch import client as client_module
from m3plugins_elasticsearch.bulk import (
    AT_ONCE,
    CHUNK_BYTES,
    CHUNK_ITEMS,
    Action,
    _chunks,
    bulk,
    delete,
    failures,
    index,
    update,
)
from m3plugins_elasticsearch.client import connect
from tests.elasticsearch.conftest import Create
from tests.elasticsearch.proxy import BUSY, CUT, UNANSWERED, Fault, proxied, refusal
from tests.tiny import random_documents


@pytest.fixture(scope="module")
def server(es_url):
    with proxied(es_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(server):
    server.faults.clear()
    server.seen.clear()
    server.limit = None
    return server


@pytest.fixture
def connection(proxy, monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.01)
    connection = connect(proxy.url, patience=10)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def client(es_url):
    with closing(Elasticsearch(es_url)) as client:
        yield client


@pytest.fixture(scope="module")
def name(client):
    """An index with one field that takes numbers only."""
    name = "m3-test-bulk"
    client.indices.delete(index=name, ignore_unavailable=True)
    client.indices.create(index=name, mappings={"dynamic": "strict", "properties": {"n": {"type": "integer"}}})
    yield name
    client.indices.delete(index=name)


@pytest.fixture(autouse=True)
def emptied(request):
    yield
    if "name" in request.fixturenames:
        client, name = request.getfixturevalue("client"), request.getfixturevalue("name")
        client.indices.refresh(index=name)
        for hit in client.search(index=name, size=10_000, source=False)["hits"]["hits"]:
            client.delete(index=name, id=hit["_id"])


def stored(client, name):
    client.indices.refresh(index=name)
    hits = client.search(index=name, size=10_000, version=True)["hits"]["hits"]
    return {hit["_id"]: hit["_source"]["n"] for hit in hits}


def actions(count, first=0):
    return [index(str(number), {"n": number}) for number in range(first, first + count)]


def numbers(count):
    return {str(number): number for number in range(count)}


# Chunks


sizes = st.lists(st.integers(1, 400), max_size=60)


@given(sizes, st.integers(1, 500), st.integers(1, 10))
def test_chunks_are_as_large_as_they_may_be_and_keep_the_order(lengths, bytes_, items):
    given_ = [Action(str(number), (b"x" * (length - 1),)) for number, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_module, "CHUNK_BYTES", bytes_)
        patch.setattr(bulk_module, "CHUNK_ITEMS", items)
        chunks = list(_chunks(iter(given_)))
    assert [action for chunk in chunks for action in chunk] == given_
    for chunk in chunks:
        assert len(chunk) == 1 or (len(chunk) <= items and sum(action.size for action in chunk) <= bytes_)
    for chunk, following in zip(chunks, chunks[1:], strict=False):
        full = sum(action.size for action in chunk) + following[0].size > bytes_
        assert full or len(chunk) == items


def test_the_size_of_an_action_is_that_of_its_lines_in_the_request(proxy, connection, name):
    some = [index("a", {"n": 1}), delete("b"), update("c", {"n": 2})]
    list(bulk(connection, name, some))
    (body,) = proxy.bodies("_bulk")
    assert len(body) == sum(action.size for action in some)


def test_actions_are_read_one_chunk_further_than_they_are_sent(proxy, connection, name, monkeypatch):
    monkeypatch.setattr(bulk_module, "CHUNK_ITEMS", 10)
    read = []
    outcomes = bulk(connection, name, (read.append(number) or action for number, action in enumerate(actions(95))))
    assert next(outcomes).id == "0"
    assert len(read) == 10 * (AT_ONCE + 1) + 1 and len(proxy.bodies("_bulk")) <= AT_ONCE + 1
    assert [outcome.id for outcome in outcomes] == [str(number) for number in range(1, 95)]
    assert sorted(body.count(b"\n") // 2 for body in proxy.bodies("_bulk")) == [5] + [10] * 9


def test_requests_are_under_way_together(proxy, connection, name, monkeypatch):
    monkeypatch.setattr(bulk_module, "CHUNK_ITEMS", 10)
    together = threading.Barrier(AT_ONCE, timeout=20)  # broken, and the test fails, if they come one by one
    proxy.expect("_bulk", *[Fault(change=lambda answer: together.wait() < AT_ONCE and answer)] * AT_ONCE)
    assert failures(bulk(connection, name, actions(40))) == {}


def test_what_is_on_its_way_beside_a_fault_is_told_and_nothing_more_is_sent(
    proxy, connection, client, name, monkeypatch
):
    monkeypatch.setattr(bulk_module, "CHUNK_ITEMS", 10)
    refused = replace(refusal(400, "some_exception", "never"), delay=0.5)
    proxy.expect("_bulk", refused, *[Fault(forward=True, delay=0.5)] * (AT_ONCE - 1))
    outcomes = []
    with pytest.raises(ElasticsearchIndexError, match="some_exception: never"):
        for outcome in bulk(connection, name, actions(95)):
            outcomes.append(outcome)
    assert failures(outcomes) == {} and len(outcomes) >= 10 * (AT_ONCE - 1)
    assert {outcome.id for outcome in outcomes} == stored(client, name).keys()
    assert len(proxy.bodies("_bulk")) <= AT_ONCE + 1


def test_the_bounds_are_what_a_node_takes():
    assert CHUNK_BYTES < 10 << 20 and CHUNK_ITEMS <= 1000


# Outcomes


def test_every_action_has_its_own_outcome_in_order(client, connection, name):
    seq = client.index(index=name, id="held", document={"n": 0})
    mixed = [
        index("a", {"n": 1}),
        index("b", {"n": "no number"}),
        index("c", {"unknown": 1}),
        index("held", {"n": 2}, if_seq_no=seq["_seq_no"] + 5, if_primary_term=seq["_primary_term"]),
        index("held", {"n": 3}, if_seq_no=seq["_seq_no"], if_primary_term=seq["_primary_term"]),
        update("nobody", {"n": 4}),
        delete("nobody"),
        delete("a"),
        index("e", {"n": 5}),
    ]
    outcomes = list(bulk(connection, name, mixed))
    assert [(o.id, o.status) for o in outcomes] == [
        *(("a", 201), ("b", 400), ("c", 400), ("held", 409), ("held", 200)),
        *(("nobody", 404), ("nobody", 404), ("a", 200), ("e", 201)),
    ]
    reasons = [outcome.reason for outcome in outcomes]
    assert "failed to parse field [n]" in reasons[1] and "strict_dynamic_mapping_exception" in reasons[2]
    assert "version_conflict_engine_exception" in reasons[3] and "document_missing_exception" in reasons[5]
    assert [bool(reason) for reason in reasons] == [False, True, True, True, False, True, False, False, False]
    assert not any("\n" in reason or len(reason) > 500 for reason in reasons)
    assert failures(outcomes, allowed=[404, 409]).keys() == {"b", "c"}
    assert stored(client, name) == {"held": 3, "e": 5}


def test_a_reason_is_told_once(connection, name):
    (outcome,) = bulk(connection, name, [index("b", {"n": "no number"})])
    assert outcome.reason.count("no number") <= 2 and outcome.reason.startswith("document_parsing_exception: ")


# Patience


PASSING = {
    "busy": BUSY,
    "unavailable": Fault(503),
    "a bad gateway": Fault(502),
    "a gateway's timeout": Fault(504),
    "cut off": CUT,
    "cut off once it was done": UNANSWERED,
    "full": refusal(429, "circuit_breaking_exception", "[parent] Data too large"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_does_not_show(proxy, connection, client, name, fault):
    proxy.expect("_bulk", *[fault] * 6)
    outcomes = list(bulk(connection, name, actions(20)))
    assert sorted(int(outcome.id) for outcome in outcomes) == list(range(20))
    assert failures(outcomes) == {}
    assert stored(client, name) == numbers(20)
    assert proxy.faults["_bulk"] == []


def test_after_a_fault_chunks_are_halved(proxy, connection, name):
    proxy.expect("_bulk", BUSY, CUT)
    list(bulk(connection, name, actions(16)))
    assert [body.count(b"\n") // 2 for body in proxy.bodies("_bulk")] == [16, 8, 4, 4, 8]


@pytest.mark.parametrize("fault", [CUT, UNANSWERED, Fault(504, forward=False), BUSY], ids=str)
def test_what_was_deleted_is_counted_though_the_answer_was_lost(proxy, connection, name, fault):
    """Sent again, a deletion finds nothing; one with a condition, another version."""
    done = list(bulk(connection, name, actions(9)))
    some = [delete(str(number)) for number in range(5)]
    some += [delete(o.id, if_seq_no=o.seq_no, if_primary_term=1) for o in done[5:8]]
    proxy.expect("_bulk", fault)
    outcomes = list(bulk(connection, name, some))
    assert [(o.id, o.status, o.reason) for o in outcomes] == [(str(number), 200, "") for number in range(8)]


def test_what_was_not_deleted_is_not_counted(proxy, connection, client, name):
    """Changed since it was read, or never there; where no answer tells the latter, it counts as deleted."""
    done = list(bulk(connection, name, actions(2)))
    list(bulk(connection, name, [index("0", {"n": 7})]))
    some = [delete(o.id, if_seq_no=o.seq_no, if_primary_term=1) for o in done] + [delete("nobody")]
    for fault, missing in ((None, 404), (BUSY, 404), (UNANSWERED, 200)):
        proxy.expect("_bulk", fault)
        outcomes = {o.id: o.status for o in bulk(connection, name, some)}
        assert (outcomes["0"], outcomes["nobody"]) == (409, missing)
    assert stored(client, name) == {"0": 7}


def item_fault(status, *positions):
    def change(answer):
        for position in positions:
            error = {"type": "es_rejected_execution_exception", "reason": "rejected"}
            answer["items"][position]["index"] = {"status": status, "error": error}
        return {**answer, "errors": True}

    return Fault(change=change)


@pytest.mark.parametrize("status", [429, 503])
def test_items_that_a_busy_shard_refuses_are_sent_again_alone(proxy, connection, client, name, status):
    proxy.expect("_bulk", item_fault(status, 1, 3), item_fault(status, 0))
    outcomes = list(bulk(connection, name, actions(5)))
    assert [outcome.id for outcome in outcomes] == ["0", "2", "4", "3", "1"]
    assert failures(outcomes) == {}
    ids = [[json.loads(line)["index"]["_id"] for line in body.splitlines()[::2]] for body in proxy.bodies("_bulk")]
    assert ids == [["0", "1", "2", "3", "4"], ["1", "3"], ["1"]]
    assert stored(client, name) == numbers(5)


def test_items_that_stay_refused_end_the_run_and_the_others_are_stored(proxy, name, client):
    """A full disk refuses every item, and to try each chunk for a minute would take hours."""
    connection = connect(proxy.url, patience=0.4)
    proxy.faults["_bulk"] = [item_fault(429, 1), *[item_fault(429, 0)] * 50]
    outcomes = []
    with pytest.raises(ElasticsearchIndexError, match=f"cannot write to '{name}': es_rejected.*raise patience"):
        for outcome in bulk(connection, name, actions(4)):
            outcomes.append(outcome)
    connection.close()
    assert [outcome.id for outcome in outcomes] == ["0", "2", "3"] and failures(outcomes) == {}
    assert stored(client, name).keys() >= {"0", "2", "3"}


@pytest.mark.parametrize("fault", [BUSY, CUT, Fault(503)], ids=["busy", "cut off", "unavailable"])
def test_patience_ends(proxy, name, monkeypatch, fault):
    connection = connect(proxy.url, patience=0.6)
    proxy.faults["_bulk"] = [fault] * 1000
    began = time.monotonic()
    with pytest.raises(ElasticsearchIndexError, match=f"cannot write to '{name}'") as caught:
        list(bulk(connection, name, actions(4)))
    connection.close()
    assert 0.2 < time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert len(proxy.bodies("_bulk")) < 40  # pauses grow


def test_patience_ends_for_all_at_once(proxy, name, monkeypatch):
    monkeypatch.setattr(bulk_module, "CHUNK_ITEMS", 10)
    connection = connect(proxy.url, patience=0.6)
    proxy.faults["_bulk"] = [CUT] * 1000
    with pytest.raises(ElasticsearchIndexError, match=f"cannot write to '{name}'"):
        list(bulk(connection, name, actions(95)))
    connection.close()
    sent = b"".join(proxy.bodies("_bulk")).splitlines()[::2]
    assert {json.loads(line)["index"]["_id"] for line in sent} <= numbers(10 * AT_ONCE).keys()


def test_who_stops_listening_waits_for_no_patience(proxy, name, monkeypatch):
    monkeypatch.setattr(bulk_module, "CHUNK_ITEMS", 10)
    monkeypatch.setattr(bulk_module, "AT_ONCE", 1)
    connection = connect(proxy.url, patience=1e6)
    proxy.faults["_bulk"] = [None, *[BUSY] * 1000]
    outcomes = bulk(connection, name, actions(95))
    assert next(outcomes).id == "0"
    outcomes.close()
    connection.close()
    assert len(proxy.bodies("_bulk")) < 20


def test_a_request_that_is_not_answered_in_time_is_repeated(proxy, client, name):
    connection = connect(proxy.url, patience=0.4, options={"request_timeout": 0.5})  # which begins with the fault
    proxy.expect("_bulk", Fault(forward=True, delay=1.0))
    outcomes = list(bulk(connection, name, actions(6)))
    connection.close()
    assert failures(outcomes) == {} and len(outcomes) == 6
    assert stored(client, name) == numbers(6)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_is_refused_for_good_is_raised_at_once(proxy, connection, name, status):
    proxy.expect("_bulk", refusal(status, "some_exception", "never"))
    with pytest.raises(ElasticsearchIndexError, match=f"cannot write to '{name}'"):
        list(bulk(connection, name, actions(3)))
    assert len(proxy.bodies("_bulk")) == 1


def test_too_large_a_request_is_halved_and_too_large_a_document_is_told(proxy, connection, client, name):
    large = Action("large", (*index("large", {"n": 7}).lines[:1], b'{"n": 7' + b" " * 900 + b"}"))
    proxy.limit = 700
    given_ = [*actions(20), large, *actions(20, first=20)]
    outcomes = list(bulk(connection, name, given_))
    assert sorted(outcome.id for outcome in outcomes) == sorted(action.id for action in given_)
    (reason,) = failures(outcomes).values()
    assert reason.startswith(f"the document takes {large.size} bytes, over the node's http.max_content_length; raise")
    assert stored(client, name) == numbers(40)


def test_an_index_that_is_dropped_meanwhile_is_not_made_anew(proxy, connection, client, es_name):
    client.indices.create(index=es_name, aliases={f"{es_name}-alias": {}})
    client.indices.delete(index=es_name)
    for target in (es_name, f"{es_name}-alias"):
        with pytest.raises(ElasticsearchIndexError, match="the index was dropped meanwhile"):
            list(bulk(connection, target, actions(3), require_alias=True))
        assert not client.indices.exists(index=target)


# Through the index


@pytest.fixture(scope="module")
def docs(make: Create):
    return make()


@pytest.fixture
def through(docs, encoder, proxy):
    with ElasticsearchHybridIndex.open(docs.name, encoder=encoder, uri=proxy.url) as index:
        yield index
    docs.delete([document.id for document in docs.scan()])


def test_new_metadata_whose_answer_was_lost_are_no_conflict(proxy, through):
    """Sent again, the condition does not hold: the document was changed, by ourselves."""
    documents = random_documents(6)
    through.upsert(documents)
    proxy.expect("_bulk", UNANSWERED)
    report = through.update_metadata({document.id: {"new": True} for document in documents})
    assert (report.written, report.failed) == (6, [])
    assert all(document.metadata == {"new": True} for document in through.scan())


@pytest.mark.parametrize("selected", ["ids", "filter", "parent_id"])
def test_a_deletion_whose_answer_was_lost_counts_what_it_deleted(proxy, through, selected):
    documents = [replace(document, parent_id="p") for document in random_documents(6)]
    through.upsert(documents)
    proxy.expect("_bulk", UNANSWERED)
    by = {"ids": [d.id for d in documents], "filter": filters.exists("number"), "parent_id": "p"}
    assert through.delete(**{selected: by[selected]}) == 6
    assert through.count() == 0


@pytest.mark.parametrize("fault", [BUSY, CUT, UNANSWERED], ids=["busy", "cut off", "cut off once it was done"])
def test_an_upsert_through_faults_stores_every_document_once(proxy, through, docs, fault):
    documents = random_documents(90)
    proxy.faults["_bulk"] = [fault, None, fault, fault]
    acknowledged = []
    report = through.upsert(documents, on_ack=acknowledged.extend)
    assert (report.written, report.failed, sorted(acknowledged)) == (90, [], sorted(d.id for d in documents))
    assert sorted(docs.scan(), key=lambda d: d.id) == sorted(documents, key=lambda d: d.id)


def test_what_was_acknowledged_before_a_write_fails_for_good_is_stored(proxy, through, docs):
    acknowledged = []

    def stream():
        for number in range(1000):
            if len(acknowledged) > 64 and "_bulk" not in proxy.faults:
                proxy.expect("_bulk", refusal(400, "some_exception", "never"))
            yield Document(id=str(number), text=f"fox {number}")

    with pytest.raises(ElasticsearchIndexError, match="some_exception: never"):
        through.upsert(stream(), on_ack=acknowledged.extend)
    assert 64 < len(acknowledged) < 1000
    assert {document.id for document in docs.get(acknowledged)} == set(acknowledged)
