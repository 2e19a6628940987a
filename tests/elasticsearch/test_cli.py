"""`m3` on Elasticsearch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m3plugins.cli.app import run
from tests.core.cli.engine_suite import EngineCliSuite
from tests.tiny import SENTENCES


class TestCli(EngineCliSuite):
    engine = "elasticsearch"

    @pytest.fixture
    def where(self, es_url, es_name):
        return ["--engine", self.engine, "--uri", es_url, "--collection", es_name]

    @pytest.fixture
    def name(self, es_name):
        return es_name

    def test_a_document_that_elasticsearch_cannot_keep_is_named_and_the_exit_code_is_1(self, m3, corpus, capsys):
        corpus.write_text(json.dumps({"_id": "x" * 513, "text": "long id"}) + "\n" + corpus.read_text())
        assert m3("index", "corpus.jsonl") == 1
        out, err = capsys.readouterr()
        assert f"{len(SENTENCES) + 1} written, 0 unchanged, 1 failed" in out
        assert "must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it" in err

    def test_names_that_elasticsearch_refuses_are_wrong_calls(self, m3, corpus, capsys):
        assert m3("index", "corpus.jsonl", "--collection", "Docs") == 2
        assert "an index's name must be in lower case" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:se%23cret@127.0.0.1:9", "no connection to Elasticsearch"),
        ("127.0.0.1:9200/me:se%23cret", "uri must be http"),
        ("http://me:se/cret@127.0.0.1:9", "uri must be http"),
    ],
)
def test_an_address_where_nothing_is_is_told_in_a_line_without_the_password(
    checkpoint: Path, uri: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--engine", "elasticsearch", "--uri", uri, "--collection", "docs", "--model", str(checkpoint)]
    assert run(["search", "q", *where]) in (1, 2)
    out, err = capsys.readouterr()
    assert said in err and err.startswith("m3: ") and err.count("\n") == 1
    assert "cret" not in out + err
