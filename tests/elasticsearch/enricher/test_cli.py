"""`m3 enrich`, in this process where that is enough and as a service where signals matter."""

import json
import signal
import subprocess
import sys

import pytest

from m3plugins.cli.app import run
from tests.elasticsearch.enricher.conftest import Owner, until


@pytest.fixture
def m3(articles: Owner, checkpoint):
    def call(*arguments: str) -> int:
        where = ["--uri", articles.url, "--collection", articles.name, "--model", str(checkpoint)]
        return run(["enrich", *where, *arguments])

    return call


NAMED = ("--text", "body", "--title", "headline")


def test_a_backfill_then_a_comparison(articles, m3, capsys):
    articles.fill(20)
    assert m3(*NAMED, "--once") == 0
    assert f"{articles.name} at {articles.url}: 20 enriched in " in capsys.readouterr().out
    assert m3("--verify") == 0
    assert "20 of 20 documents are enriched\n" in capsys.readouterr().out


def test_json_has_one_object_a_run(articles, m3, capsys):
    articles.fill(3)
    assert m3(*NAMED, "--once", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["enriched"], done["dead_letters"], done["completed"]) == (3, 0, True)
    articles.update("1", body="another text")
    assert m3("--verify", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["documents"], told["enriched"], told["stale"], told["examples"]) == (3, 2, 1, {"stale": ["1"]})


def test_what_cannot_be_enriched_makes_the_exit_code_1_and_is_named(articles, m3, capsys):
    articles.client.indices.put_mapping(
        index=articles.name, properties={"place": {"type": "geo_point", "ignore_malformed": True}}
    )
    articles.put("1", place={"lat": 1, "lon": 1})
    assert m3("--text", "place", "--once") == 1
    assert f"m3: 1 documents cannot be enriched; the index m3-dead-letters.{articles.name}" in capsys.readouterr().err
    assert m3("--verify") == 1
    out, err = capsys.readouterr()
    assert "0 of 1 documents are enriched, 1 dead\n  dead: 1" in out and "says why" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say one of --once, --watch and --verify"),
        (["--once", "--watch"], "say one of"),
        (["--verify", "--anew"], "--anew goes with --once"),
        (["--once"], "fields must name the text"),
        (["--once", "--title", "headline"], "--title goes with --text"),
        (["--once", "--text", "bdoy"], "no field 'bdoy'; name one that they have, such as body"),
        (["--once", "--text", "body", "--codec", "zip"], "codec"),
        (["--once", "--text", "body", "--model", "/no/such/folder"], "/no/such/folder"),
        (["--once", "--text", "body", "--lease", "0"], "--lease"),
    ],
)
def test_a_wrong_call_exits_2_with_one_line(m3, arguments, said, capsys):
    assert m3(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("m3: ") and said in err and err.count("\n") == 1


def test_an_index_that_is_not_there_is_a_wrong_call(m3, articles, capsys):
    articles.client.indices.delete(index=articles.name)
    assert m3("--text", "body", "--once") == 2
    assert "there is no index" in capsys.readouterr().err


@pytest.mark.slow
def test_a_service_tells_its_metrics_and_ends_cleanly(articles, checkpoint):
    articles.fill(40)
    command = [sys.executable, "-m", "m3plugins.cli", "enrich", "--uri", articles.url, "--collection", articles.name]
    command += [*NAMED, "--model", str(checkpoint), "--watch", "--json", "--poll", "0.1", "--worker"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    numbers = {"w1": signal.SIGTERM, "w2": signal.SIGINT}
    services = {worker: subprocess.Popen([*command, worker], **pipes) for worker in numbers}
    place = f"m3-enricher.{articles.name}"
    try:
        enriched = {"query": {"exists": {"field": "m3.model"}}}
        until(lambda: articles.client.count(index=articles.name, **enriched)["count"] == 40, 150)
        until(lambda: workers(articles, place) == {"w1", "w2"}, 100)
        lines = {}
        for worker, service in services.items():
            service.send_signal(numbers[worker])
            out, err = service.communicate(timeout=30)
            lines[worker] = [json.loads(line) for line in out.splitlines()]
            assert (service.returncode, err) == (0, "")
            assert lines[worker][0]["worker"] == worker
    finally:
        for service in services.values():
            service.kill()
    assert sum(told[-1]["enriched"] for told in lines.values()) == 40
    assert workers(articles, place) == set()
    assert all(ledger["claims"] == [] for ledger in articles.ledgers())


def workers(articles: Owner, place: str) -> set[str]:
    """Those that have a session."""
    articles.client.indices.refresh(index=place)
    hits = articles.client.search(index=place, query={"exists": {"field": "worker"}})["hits"]["hits"]
    return {hit["_source"]["worker"] for hit in hits}
