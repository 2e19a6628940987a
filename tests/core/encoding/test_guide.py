"""The Python snippets of the guide from FlagEmbedding run as they stand."""

from pathlib import Path

import pytest

from tests.snippets import run_snippets


def test_snippets_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_snippets("docs/from-flagembedding.md", tmp_path, monkeypatch, {"BAAI/bge-m3": str(checkpoint)})
    assert [type(total) for total in names["totals"]] == [float, float]
