"""The Python snippets of the README run as they stand but for the address, one after the other."""

from pathlib import Path

import pytest
from elasticsearch import Elasticsearch

from tests.snippets import run_snippets


def test_snippets_run_and_run_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, es_url: str):
    try:
        run_snippets(
            "integrations/elasticsearch/README.md",
            tmp_path,
            monkeypatch,
            replacing={"http://localhost:9200": es_url},
            pasted=2,
        )
    finally:
        with Elasticsearch(es_url) as client:
            for name in client.indices.get(index="m3-readme*,m3-articles*,m3-*.m3-articles*", expand_wildcards="all"):
                client.indices.delete(index=name)
