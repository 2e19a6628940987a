"""What cannot be enriched is told, with the reason, and holds nothing up."""

import threading
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from elasticsearch import Elasticsearch

from m3plugins import HybridRetriever
from m3plugins_elasticsearch.enricher import Enricher, run
from m3plugins_elasticsearch.enricher.dead_letters import DeadLetter, DeadLetters
from m3plugins_elasticsearch.enricher.feed import Feed
from m3plugins_elasticsearch.enricher.shards import Shard, positions
from tests.elasticsearch.enricher.conftest import Owner, until, watching

pytestmark = pytest.mark.elasticsearch9

POINT = {"lat": 1.0, "lon": 2.0}


def put_raw(owner: Owner, id: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{owner.url}/{owner.name}/_doc/{id}", data=body, method="PUT", headers=headers)
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


@pytest.fixture
def objects(owner: Owner) -> Owner:
    """An index whose `body` may be a text or an object: a point takes an object, and here anything else."""
    body = {"type": "geo_point", "ignore_malformed": True}
    owner.make(mappings={"properties": {"body": body, "views": {"type": "integer"}}})
    return owner


def test_a_text_that_is_none_is_told_and_the_feed_goes_on(objects, attach):
    objects.put("1", body="a fox")
    objects.put("2", body=POINT, views=2)
    objects.put("3", body="a dog")
    enricher = Enricher(attach(fields={"text": "body"}), worker="w1")
    report = enricher.run_once()
    assert (report.enriched, report.dead, report.dead_letters) == (2, 1, 1)
    assert objects.letters() == {"2": "the field 'body' must hold text, got dict; name another field"}
    (hit,) = objects.client.search(index=f"m3-dead-letters.{objects.name}")["hits"]["hits"]
    letter = hit["_source"]
    assert {name: letter[name] for name in ("index", "shard", "seq_no", "worker", "routing")} == {
        "index": objects.name,
        "shard": 0,
        "seq_no": 1,
        "worker": "w1",
        "routing": None,
    }
    verified = enricher.verify()
    assert (verified.enriched, verified.dead, verified.examples) == (2, 1, {"dead": ["2"]})


def test_an_edit_that_succeeds_takes_the_letter_away(objects, attach):
    objects.put("1", body=POINT)
    enricher = Enricher(attach(fields={"text": "body"}))
    enricher.run_once()
    objects.put("1", body="a fox")
    report = enricher.run_once()
    assert (report.enriched, report.dead_letters) == (1, 0)
    assert objects.letters() == {}


def test_a_deleted_document_takes_its_letter_along(objects, attach):
    objects.put("1", body=POINT)
    enricher = Enricher(attach(fields={"text": "body"}))
    assert enricher.run_once().dead_letters == 1
    objects.client.delete(index=objects.name, id="1")
    assert enricher.run_once().dead_letters == 0


def test_a_document_that_becomes_unreadable_is_no_longer_found_by_its_old_text(objects, attach):
    objects.put("1", body="a fox", views=1)
    index = attach(fields={"text": "body"})
    enricher = Enricher(index)
    enricher.run_once()
    objects.update("1", body=POINT)
    assert enricher.run_once().dead == 1
    assert HybridRetriever(index).search("a fox") == []
    assert objects.sources()["1"]["views"] == 1
    again = enricher.run_once()
    assert (again.dead, again.dead_letters) == (0, 1)
    objects.put("1", body="a fox again")
    assert enricher.run_once().enriched == 1
    assert [hit.id for hit in HybridRetriever(index).search("a fox")] == ["1"]
    assert objects.letters() == {}


def test_a_dead_document_is_counted_once_however_often_it_is_looked_at(objects, attach):
    objects.put("1", body=POINT)
    enricher = Enricher(attach(fields={"text": "body"}))
    assert [enricher.run_once().dead for _ in range(2)] == [1, 0]
    objects.client.indices.delete(index=f"m3-enricher.{objects.name}")  # all that is known of what was done
    again = enricher.run_once()
    assert (again.dead, again.dead_letters) == (0, 1)
    assert enricher.run_once(anew=True).dead == 1
    assert objects.letters().keys() == {"1"}


def test_a_source_that_is_not_unicode_is_a_dead_letter(articles, enricher):
    articles.fill(20)
    put_raw(articles, "half", b'{"body": "half a pair: \\ud83d"}')
    put_raw(articles, "deep", b'{"body": "a fox", "views": 1, "x": ' + b'{"a":' * 19 + b"1" + b"}" * 19 + b"}")
    articles.fill(20, first=20)
    report = enricher.run_once()
    assert (report.enriched, report.dead) == (41, 1)
    assert "lone surrogate" in articles.letters()["half"]
    verified = enricher.verify()
    assert (verified.enriched, verified.dead) == (41, 1)


def test_a_document_that_elasticsearch_takes_no_update_of_is_a_dead_letter(owner, attach):
    """Its owner's mapping has become stricter since it was written: any update of it fails."""
    owner.make(mappings={"properties": {"body": {"type": "text"}, "when": {"type": "date", "ignore_malformed": True}}})
    owner.put("1", body="a fox", when="some day")
    owner.put("2", body="a dog", when="2024-05-01")
    owner.client.indices.put_mapping(index=owner.name, properties={"when": {"type": "date", "ignore_malformed": False}})
    enricher = Enricher(attach(fields={"text": "body"}))
    report = enricher.run_once()
    assert (report.enriched, report.dead) == (1, 1)
    assert "failed to parse field [when]" in owner.letters()["1"]
    assert (enricher.verify().enriched, enricher.verify().dead) == (1, 1)
    assert enricher.run_once().dead_letters == 1
    owner.put("1", body="a fox", when="2024-05-02")
    assert enricher.run_once().dead_letters == 0
    assert enricher.verify().complete


def test_a_document_whose_vectors_cannot_even_be_taken_out_is_a_dead_letter(owner, attach):
    owner.make(mappings={"properties": {"body": {"type": "text"}, "when": {"type": "date", "ignore_malformed": True}}})
    owner.put("1", body="a fox", when="some day")
    enricher = Enricher(attach(fields={"text": "body"}))
    enricher.run_once()
    owner.update("1", body="a dog")
    owner.client.indices.put_mapping(index=owner.name, properties={"when": {"type": "date", "ignore_malformed": False}})
    assert enricher.run_once().dead == 1
    assert "failed to parse field [when]" in owner.letters()["1"]


def test_embeddings_that_are_not_finite_are_a_dead_letter(articles, enricher, witness, monkeypatch):
    articles.fill(3)
    real = type(witness).iter_documents

    def diverged(self, texts, **options):
        texts = list(texts)
        for output in real(self, texts, **options):
            dense = output.dense.copy()
            dense[[text.endswith("1") for text in texts]] = np.nan
            yield replace(output, dense=dense)

    monkeypatch.setattr(type(witness), "iter_documents", diverged)
    report = enricher.run_once()
    assert (report.enriched, report.dead) == (2, 1)
    assert "must be finite" in articles.letters()["1"]


@pytest.mark.parametrize("count", [1, 5])
def test_a_text_at_which_the_encoder_fails_is_a_dead_letter(articles, enricher, witness, count):
    """Also where nothing else is to be encoded: the text is to blame, not the encoder."""
    articles.fill(count)
    articles.update("0", body="poison")

    def fail(texts):
        if "poison" in texts:
            raise RuntimeError("no such token\nat all")

    witness.hook = fail
    report = enricher.run_once()
    assert (report.enriched, report.dead, report.completed) == (count - 1, 1, True)
    assert articles.letters() == {"0": "the encoder fails at it: RuntimeError: no such token at all"}
    articles.update("0", body="a fox")
    assert enricher.run_once().dead_letters == 0
    assert enricher.verify().complete


class KilledError(BaseException):
    """What ends a worker without a word."""


@pytest.fixture
def mortal(articles, attach, witness, monkeypatch):
    """A worker that a text "poison" kills, as the system kills a process: it gives nothing back and no more signs."""

    def kill(texts):
        if any("poison" in text for text in texts):
            raise KilledError

    def leave(self):
        if self._heartbeat is not None:
            self._heartbeat._ended.set()
            self._heartbeat._thread.join()

    witness.hook = kill
    monkeypatch.setattr(run.Run, "leave", leave)
    return lambda: Enricher(attach(), lease_s=0.5, poll_s=0.05)


def test_a_document_that_kills_every_worker_is_a_dead_letter_and_its_neighbours_are_enriched(articles, mortal):
    articles.fill(20)
    articles.update("7", body="poison")
    articles.update("12", body="more poison")
    deaths = 0
    while True:
        try:
            report = mortal().run_once()
            break
        except KilledError:
            deaths += 1
    assert deaths == 6  # twice with all others, then each twice alone
    assert articles.letters() == {"7": run.KILLED, "12": run.KILLED}
    assert report.dead_letters == 2 and report.completed
    assert all(articles.m3(str(number)) for number in range(20) if number not in (7, 12))
    articles.update("7", body="a fox")
    assert mortal().run_once().dead_letters == 1


def test_workers_that_die_at_different_documents_bury_none(articles, mortal, witness):
    articles.fill(6)
    calls = []

    def kill(texts):
        calls.append(texts)
        if len(calls) in (1, 2, 4, 6):
            raise KilledError

    witness.hook = kill
    for _ in range(4):
        with pytest.raises(KilledError):
            mortal().run_once()
    report = mortal().run_once()
    assert report.completed and report.dead_letters == 0
    assert all(articles.m3(str(number)) for number in range(6))


def test_workers_that_are_stopped_at_a_document_do_not_make_it_suspect(articles, attach, witness):
    articles.fill(3)
    for _ in range(4):
        stop = threading.Event()
        witness.hook = lambda texts, stop=stop: stop.set()
        monkey = Enricher(attach(), batch=1)
        monkey.run_once(stop=stop)
    assert all(claim["deaths"] == 0 for ledger in articles.ledgers() for claim in ledger["claims"])


def test_a_page_that_does_not_fit_into_memory_is_read_one_by_one(articles, attach, monkeypatch):
    articles.fill(4)
    articles.update("2", body="huge")
    enricher = Enricher(attach())
    search = Feed._search

    def short_of_memory(self, shard, after, upto, without, size, wanted):
        hits = search(self, shard, after, upto, without, size, wanted)
        if any((hit.get("_source") or {}).get("body") == "huge" for hit in hits):
            raise MemoryError
        return hits

    monkeypatch.setattr(Feed, "_search", short_of_memory)
    report = enricher.run_once()
    assert (report.enriched, report.dead) == (3, 1)
    assert articles.letters() == {"2": "the document cannot be read: MemoryError()"}


def test_a_model_that_makes_no_number_of_any_text_ends_a_worker(articles, enricher, witness, monkeypatch):
    articles.fill(3)
    real = type(witness).iter_documents
    broken = lambda self, texts: (replace(output, dense=output.dense * np.nan) for output in real(self, texts))  # noqa: E731
    monkeypatch.setattr(type(witness), "iter_documents", broken)
    with pytest.raises(ValueError, match="the model is broken"):
        enricher.run_once()
    assert articles.letters() == {}


# The letters themselves


@pytest.fixture
def shard(articles: Owner, attach) -> Shard:
    """Of the owner's index, with a document each for three letters."""
    articles.fill(3)
    return positions(attach().store.connection, articles.name).shards[0]


@pytest.fixture
def letters(articles: Owner, attach) -> DeadLetters:
    return DeadLetters(attach().store.connection, articles.name, "w1")


def letter(shard: Shard, id: str = "0", seq_no: int = 0, reason: str = "old") -> DeadLetter:
    return DeadLetter(id, None, shard.number, shard.history, seq_no, reason)


def test_a_letter_of_an_older_change_replaces_none_of_a_newer_one(shard, letters, articles):
    letters.write([letter(shard, seq_no=9, reason="new")])
    letters.write([letter(shard), letter(shard, "1")])
    assert articles.letters() == {"0": "new", "1": "old"}
    letters.write([letter(shard, seq_no=10, reason="newer")])
    assert articles.letters()["0"] == "newer"


def test_a_letter_that_was_written_anew_meanwhile_is_not_deleted(shard, letters, articles):
    letters.write([letter(shard), letter(shard, "1")])
    known = letters.known(shard, ["0", "1"])
    (scanned,) = letters.scan()
    letters.write([letter(shard, seq_no=9, reason="new")])
    letters.remove(known.values())
    assert articles.letters() == {"0": "new"}
    letters.remove(scanned)
    assert articles.letters() == {"0": "new"}


def test_a_letter_that_is_written_while_void_ones_are_looked_for_stays(shard, letters, articles, attach):
    class Slow(DeadLetters):
        def _documents(self, found):
            articles.update("0", body="another")
            letters.write([letter(shard, seq_no=3, reason="new"), letter(shard, "2", 2, "new")])
            return super()._documents(found)

    letters.write([letter(shard), letter(shard, "1", 1), letter(shard, "gone")])
    Slow(attach().store.connection, articles.name, "w2").prune(threading.Event())
    assert articles.letters() == {"0": "new", "1": "old", "2": "new"}


@pytest.mark.parametrize("there", [True, False])
def test_two_workers_that_write_one_letter_at_a_time_leave_the_newer_one(shard, letters, articles, attach, there):
    class Slow(DeadLetters):
        def _stored(self, keys):
            found = super()._stored(keys)
            letters.write([letter(shard, seq_no=9, reason="new")])
            return found

    if there:
        letters.write([letter(shard)])
    Slow(attach().store.connection, articles.name, "w2").write([letter(shard, seq_no=5)])
    assert articles.letters() == {"0": "new"}


def test_void_letters_are_deleted_with_one_request_a_page(shard, letters, articles, monkeypatch):
    letters.write([letter(shard, f"gone {n}") for n in range(30)])
    bulk, sent = Elasticsearch.bulk, []
    monkeypatch.setattr(Elasticsearch, "bulk", lambda self, **request: sent.append(1) or bulk(self, **request))
    letters.prune(threading.Event())
    assert articles.letters() == {} and len(sent) == 1


def test_a_worker_that_watches_deletes_the_letters_of_deleted_documents(objects, attach, monkeypatch):
    monkeypatch.setattr(run, "PRUNE_S", 0.1)
    objects.put("1", body=POINT)
    objects.put("2", body=POINT)
    with watching(Enricher(attach(fields={"text": "body"}), poll_s=0.1)):
        until(lambda: objects.letters().keys() == {"1", "2"})
        objects.client.delete(index=objects.name, id="1")
        until(lambda: objects.letters().keys() == {"2"})


def test_letters_of_an_earlier_index_of_the_name_are_of_no_document(objects, attach):
    """Its document has the same id and the same sequence number."""
    objects.put("1", body=POINT)
    assert Enricher(attach(fields={"text": "body"})).run_once().dead_letters == 1
    objects.client.indices.delete(index=objects.name)
    objects.make(mappings={"properties": {"body": {"type": "text"}}})
    objects.put("1", body="a fox")
    report = Enricher(attach(fields={"text": "body"})).run_once()
    assert (report.enriched, report.dead_letters) == (1, 0)
