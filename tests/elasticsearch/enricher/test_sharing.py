"""Workers share the work, none does another's, and what a dead one left is done."""

import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from m3plugins_elasticsearch.enricher import Enricher
from m3plugins_elasticsearch.enricher.heartbeat import Heartbeat, LeaseLostError
from m3plugins_elasticsearch.enricher.leases import Leases
from m3plugins_elasticsearch.enricher.shards import positions
from tests.elasticsearch.enricher.conftest import Owner, Witness, until, watching

pytestmark = pytest.mark.elasticsearch9


@pytest.mark.parametrize("shards", [1, 3])
def test_two_workers_share_even_one_shard_and_no_text_is_encoded_twice(owner, attach, encoder, shards):
    owner.make(shards=shards)
    texts = owner.fill(200)
    witnesses = [Witness(encoder), Witness(encoder)]
    workers = [Enricher(attach(encoder=one), batch=16, worker=f"w{n}") for n, one in enumerate(witnesses)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(Enricher.run_once, workers))
    assert sorted(witnesses[0].texts + witnesses[1].texts) == sorted(texts)
    assert all(report.enriched and report.completed for report in reports)
    assert sum(report.enriched for report in reports) == 200
    assert workers[0].verify().enriched == 200


def test_workers_that_watch_side_by_side_encode_every_text_once(articles, attach, encoder):
    witnesses = [Witness(encoder), Witness(encoder)]
    first, second = (Enricher(attach(encoder=one), poll_s=0.1) for one in witnesses)
    with watching(first), watching(second):
        texts = [text for n in range(8) for text in articles.fill(5, first=5 * n)]
        until(lambda: len(witnesses[0].texts + witnesses[1].texts) >= len(texts))
    assert sorted(witnesses[0].texts + witnesses[1].texts) == sorted(texts)
    assert first.verify().complete


def silent(articles: Owner, attach, lease_s: float) -> Heartbeat:
    """A worker that has taken everything, and gives no sign any more."""
    store = attach().store
    leases = Leases(store.connection, articles.name)
    leases.system_index.ensure()
    shard = positions(store.connection, articles.name).shards[0]
    heartbeat = Heartbeat(store.connection, leases.system_index, "silent", lease_s).start()
    claim = leases.take(shard, leases.read([shard])[0], heartbeat, shard.checkpoint, lambda ledger: shard.checkpoint)
    assert claim is not None and (claim.after, claim.upto) == (-1, 9)
    heartbeat._ended.set()
    heartbeat._thread.join()
    return heartbeat


def test_what_a_silent_worker_holds_is_taken_over_when_its_lease_is_over_not_before(articles, attach, witness):
    articles.fill(10)
    heartbeat = silent(articles, attach, lease_s=1.5)
    enricher = Enricher(attach(), poll_s=0.1)
    started = time.monotonic()
    told: list[float] = []
    witness.hook = lambda texts: told.append(time.monotonic() - started)
    assert enricher.run_once().enriched == 10
    assert told[0] > 1.5
    with pytest.raises(LeaseLostError, match="gave no sign"):
        heartbeat.check()


def test_what_a_living_worker_holds_is_waited_for(articles, attach, encoder):
    articles.fill(10)
    slow, quick = Witness(encoder), Witness(encoder)
    slow.hook = lambda texts: time.sleep(2)
    first, second = Enricher(attach(encoder=slow), lease_s=1), Enricher(attach(encoder=quick), lease_s=1, poll_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run_once)
        until(lambda: any(ledger["claims"] for ledger in articles.ledgers()))
        assert second.run_once().completed
        assert running.result().enriched == 10
    assert quick.texts == []


def test_a_worker_that_lost_its_lease_writes_nothing_more_for_it(articles, attach, witness):
    articles.fill(10)
    place = f"m3-enricher.{articles.name}"

    def bury(texts):
        """What another worker does with one that it takes for dead; the lease's sign of life then fails."""
        witness.hook = lambda texts: None
        articles.client.indices.refresh(index=place)
        query = {"term": {"worker": "w1"}}
        for hit in articles.client.search(index=place, query=query)["hits"]["hits"]:
            articles.client.delete(index=place, id=hit["_id"])
        time.sleep(0.5)

    witness.hook = bury
    enricher = Enricher(attach(), worker="w1", lease_s=1, poll_s=0.1)
    report = enricher.run_once()
    assert (report.enriched, report.conflicts) == (10, 0)
    assert len(witness.texts) == 20  # the first time in vain
    assert enricher.verify().complete


def test_a_worker_that_is_told_to_stop_ends_after_its_batch_and_others_go_on_at_once(articles, attach, witness):
    articles.fill(60)
    stop = threading.Event()
    witness.hook = lambda texts: stop.set()
    report = Enricher(attach(), batch=20).run_once(stop=stop)
    assert not report.completed and report.enriched == 20
    started = time.monotonic()
    rest = Enricher(attach(), lease_s=60).run_once()
    assert rest.enriched == 40 and rest.unchanged == 20
    assert time.monotonic() - started < 30
    assert len(witness.texts) == 60


def test_what_a_worker_wrote_before_it_ended_is_not_encoded_again(owner, attach, witness):
    """Though no search sees it until the index is refreshed."""
    owner.make(settings={"refresh_interval": "-1"})
    owner.fill(10)
    stop = threading.Event()
    witness.hook = lambda texts: stop.set()
    assert Enricher(attach()).watch(stop).enriched == 10
    assert Enricher(attach()).run_once().unchanged == 10
    assert len(witness.texts) == 10


def test_an_error_of_the_encoder_ends_a_worker_and_leaves_its_work_to_others(articles, attach, encoder):
    articles.fill(5)
    broken = Witness(encoder)
    broken.hook = lambda texts: (_ for _ in ()).throw(MemoryError("no room"))
    with pytest.raises(MemoryError):
        Enricher(attach(encoder=broken), lease_s=60).run_once()
    assert Enricher(attach()).run_once().enriched == 5


def test_a_ledger_is_void_for_a_shard_of_another_history(articles, enricher, attach):
    """As of a snapshot that was restored in its place: its sequence numbers count other changes."""
    articles.fill(5)
    enricher.run_once()
    connection = attach().store.connection
    shard, leases = positions(connection, articles.name).shards[0], Leases(connection, articles.name)
    assert leases.read([shard])[0].ledger.checkpoint >= 4
    assert leases.read([replace(shard, history="another")])[0].ledger.checkpoint == -1


def spawn(articles: Owner, checkpoint, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "m3plugins.cli", "enrich", "--uri", articles.url, "--collection", articles.name]
    command += ["--text", "body", "--title", "headline", "--model", str(checkpoint), "--lease", "1", "--poll", "0.1"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_processes_killed_at_random_lose_nothing_and_overwrite_nothing(articles, attach, encoder, checkpoint):
    choose = random.Random(7)
    attach()
    articles.fill(300)
    texts = {str(n): f"the fox number {n}" for n in range(300)}
    enriched = {"query": {"exists": {"field": "m3.model"}}}
    workers = [spawn(articles, checkpoint, "--watch") for _ in range(2)]
    try:
        for round_ in range(2):
            goal = (round_ + 1) * 60
            while articles.client.count(index=articles.name, **enriched)["count"] < goal:
                assert all(worker.poll() is None for worker in workers[round_:])
                number = choose.choice(list(texts))
                texts[number] = f"edited {choose.random()}"
                articles.update(number, body=texts[number])
            time.sleep(choose.random() / 4)
            workers[round_].send_signal(signal.SIGKILL)
        report = (last := Enricher(attach(), poll_s=0.1)).run_once()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert report.completed and last.verify().enriched == 300
    assert {i: source["body"] for i, source in articles.sources().items()} == texts
    stored = attach().embeddings(list(texts), heads=["dense"])
    fresh = encoder.encode_documents(texts.values(), heads=["dense"]).dense
    for row, i in enumerate(texts):
        assert stored[i].dense[0] == pytest.approx(fresh[row], abs=1e-5)
