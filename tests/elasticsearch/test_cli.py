"""`m3 index`, `m3 search` and `m3 evaluate` on Elasticsearch, found by its entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3plugins import HybridRetriever, M3Encoder
from m3plugins.cli.app import run
from m3plugins_elasticsearch import ElasticsearchHybridIndex
from tests.milvus.test_cli import write
from tests.tiny import SENTENCES, save_checkpoint

M3 = Callable[..., int]


@pytest.fixture
def m3(checkpoint: Path, tmp_path: Path, es_url: str, es_name: str, monkeypatch: pytest.MonkeyPatch) -> M3:
    """Runs a verb in a folder of the test's own, on an index of its own."""
    monkeypatch.chdir(tmp_path)
    where = ["--engine", "elasticsearch", "--uri", es_url, "--collection", es_name, "--model", str(checkpoint)]
    return lambda *arguments: run([*arguments, *where])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.jsonl", [*SENTENCES, "[/bold] \x1b[31m"])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_an_index_is_made_then_only_what_changed_is_written(
    m3: M3, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert m3("index", "corpus.jsonl", "--json") == 0
    first = printed(capsys)
    assert (first["written"], first["unchanged"], first["failed"]) == (len(SENTENCES) + 1, 0, [])
    write(corpus, [*SENTENCES, "another text"])
    assert m3("index", "corpus.jsonl", "--json") == 0
    second = printed(capsys)
    assert (second["written"], second["unchanged"]) == (1, len(SENTENCES))
    assert second["documents"] == first["documents"] == len(SENTENCES) + 1


def test_a_document_that_elasticsearch_cannot_keep_is_named_and_the_exit_code_is_1(
    m3: M3, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.write_text(json.dumps({"_id": "x" * 513, "text": "long id"}) + "\n" + corpus.read_text())
    assert m3("index", "corpus.jsonl") == 1
    out, err = capsys.readouterr()
    assert f"{len(SENTENCES) + 1} written, 0 unchanged, 1 failed" in out
    assert "must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it" in err


def test_a_search_shows_what_the_retriever_finds(
    m3: M3, corpus: Path, checkpoint: Path, es_url: str, es_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert m3("index", "corpus.jsonl", "--json") == 0
    capsys.readouterr()
    assert m3("search", SENTENCES[0], "--json", "-k", "4") == 0
    hits = printed(capsys)["hits"]
    encoder = M3Encoder.from_pretrained(checkpoint)
    with ElasticsearchHybridIndex.open(es_name, encoder=encoder, uri=es_url) as index:
        wanted = HybridRetriever(index).search(SENTENCES[0], k=4)
    assert [hit["id"] for hit in hits] == [hit.id for hit in wanted]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in wanted])
    assert hits[0]["metadata"] == dict(wanted[0].metadata)

    assert m3("search", SENTENCES[0], "--json", "--filter", '{"gte": {"number": 9}}') == 0
    assert {hit["id"] for hit in printed(capsys)["hits"]} == {f"d{i}" for i in range(9, len(SENTENCES) + 1)}

    assert m3("search", SENTENCES[0], "--json", "--explain", "-k", "2") == 0
    explained = printed(capsys)
    assert explained["heads"]["union"] == len(SENTENCES) + 1
    assert set(explained["hits"][0]["ranks"]) == {"dense", "sparse", "multi_vector"}
    for hit in explained["hits"]:
        assert sum(hit["contributions"].values()) == pytest.approx(hit["score"])
        for head, matches in {"sparse": "shared_tokens", "multi_vector": "nearest_tokens"}.items():
            contributions = [match["contribution"] for match in hit[matches]]
            assert sum(contributions) == pytest.approx(hit["scores"][head], rel=1e-4)

    assert m3("search", "fox", "--explain", "-k", "20") == 0
    out = capsys.readouterr().out
    assert "= dense " in out and "shared: " in out and "nearest: " in out and "first choice" in out
    assert "[/bold]" in out and "\x1b" not in out


def test_a_missing_index_is_a_wrong_call(m3: M3, es_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert m3("search", "q") == 2
    err = capsys.readouterr().err
    assert f"there is no index '{es_name}'" in err and err.count("\n") == 1


def test_another_models_index_is_refused_and_kept(
    m3: M3, corpus: Path, tmp_path: Path, es_url: str, es_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert m3("index", "corpus.jsonl", "--json") == 0
    other = save_checkpoint(tmp_path / "other", hidden_size=16)
    capsys.readouterr()
    where = ["--engine", "elasticsearch", "--uri", es_url, "--collection", es_name]
    assert run(["index", "corpus.jsonl", *where, "--model", str(other)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert m3("index", "corpus.jsonl", "--json") == 0
    assert printed(capsys)["unchanged"] == len(SENTENCES) + 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:se%23cret@127.0.0.1:9", "no connection to Elasticsearch"),
        ("127.0.0.1:9200/me:se%23cret", "uri must be http"),
        ("http://me:se/cret@127.0.0.1:9", "uri must be http"),
    ],
)
def test_an_address_where_nothing_is_is_told_in_a_line_without_the_password(
    checkpoint: Path, uri: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--engine", "elasticsearch", "--uri", uri, "--collection", "docs", "--model", str(checkpoint)]
    assert run(["search", "q", *where]) in (1, 2)
    out, err = capfd.readouterr()
    assert said in err and err.startswith("m3: ") and err.count("\n") == 1
    assert "cret" not in out + err


def test_an_evaluation_indexes_into_the_engine_first(
    m3: M3, corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(corpus.read_text())
    (tmp_path / "qrels" / "test.tsv").write_text("".join(f"d{i}\td{i}\t1\n" for i in range(len(SENTENCES))))
    assert run(["evaluate", ".", "--json", "--model", str(checkpoint)]) == 0
    in_memory = printed(capsys)["measures"]
    assert m3("evaluate", ".", "--json") == 0
    result = printed(capsys)
    assert (result["documents"], result["queries"]) == (len(SENTENCES) + 1, len(SENTENCES))
    for row in ("dense", "sparse"):  # token vectors are kept in 8 bit there
        assert result["measures"][row] == pytest.approx(in_memory[row])


def test_passages_are_cut_and_found_once_a_document(m3: M3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "corpus.jsonl", [" ".join(SENTENCES[:3]), "a short one", " ".join(SENTENCES[3:6])])
    assert m3("index", "corpus.jsonl", "--passages", "40", "--overlap", "8", "--json") == 0
    done = printed(capsys)
    assert done["written"] == 3 < done["documents"]
    assert m3("search", "fox", "-k", "2", "--per-parent", "1", "--json") == 0
    best = printed(capsys)["hits"]
    assert m3("search", "fox", "-k", "2", "--per-parent", "1", "--offset", "2", "--json") == 0
    assert {hit["parent_id"] for hit in [*best, *printed(capsys)["hits"]]} == {"d0", "d1", "d2"}
    assert m3("index", "corpus.jsonl", "--passages", "60") == 2
    assert "name another --collection" in capsys.readouterr().err


def test_names_that_elasticsearch_refuses_are_wrong_calls(
    checkpoint: Path, corpus: Path, es_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--engine", "elasticsearch", "--uri", es_url, "--collection", "Docs", "--model", str(checkpoint)]
    assert run(["index", str(corpus), *where]) == 2
    assert "an index's name must be in lower case" in capsys.readouterr().err
