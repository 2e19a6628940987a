"""The Python of docs/training.md runs as it stands, from top to bottom."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from m3plugins import M3Encoder
from m3plugins.training import SelfDistillationArguments

GUIDE = Path(__file__).parents[3] / "docs/training.md"


def test_the_snippets_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet.replace('"m3-mini"', repr(str(checkpoint))), str(GUIDE), "exec"), names)
    encoder = names["encoder"]
    assert isinstance(encoder, M3Encoder) and encoder.encode_queries(["a heap"]).dense is not None


def test_the_settings_it_names_exist() -> None:
    named = re.findall(r"`(\w+)=[^`]*`", GUIDE.read_text(encoding="utf-8"))
    assert len(named) > 10
    assert set(named) <= {field.name for field in fields(SelfDistillationArguments)} | {"stop"}
