"""The README of the whole speaks of every integration, so all are needed to run it."""

from pathlib import Path

import pytest

from tests.snippets import run_snippets


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_snippets("README.md", tmp_path, monkeypatch)
