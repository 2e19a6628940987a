"""`m3 doctor` says what works, and how to mend what does not."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from m3plugins.cli.app import run
from m3plugins.retrieval import engines


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_an_installation_that_works_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = checks(capsys)
    assert {"python", "torch", "transformers", "devices", "m3-mini", "evaluation"} <= set(found)
    assert found["torch"]["status"] == "ok"


def test_an_engine_that_cannot_be_imported_fails_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("milvus", "no_such_module:Index", engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda group: [point])
    assert run(["doctor", "--json"]) == 1
    found = checks(capsys)["engine milvus"]
    assert (found["status"], found["fix"]) == ("broken", "pip install -U m3plugins-milvus")


def test_no_engine_is_a_warning_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "entry_points", lambda group: [])
    assert run(["doctor"]) == 0
    assert "warn   engines: none installed; only in memory → pip install m3plugins-milvus" in capsys.readouterr().out
