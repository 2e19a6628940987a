"""The Python snippets of the README run as they stand, one after the other."""

from pathlib import Path

import pytest

from tests.snippets import run_snippets


def test_snippets_run_and_run_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_snippets("integrations/milvus/README.md", tmp_path, monkeypatch, pasted=2)
