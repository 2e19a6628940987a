"""Runs the Python snippets of a Markdown file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from m3plugins import HybridIndex

ROOT = Path(__file__).parents[1]


def run_snippets(file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Runs them as they stand, one after the other, in a folder; closes the indexes and returns the names.

    Args:
        file: From the root of the repository.
        folder: Where they may write.
        monkeypatch: Of the test.
    """
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, file, "exec"), names)
    for value in names.values():
        if isinstance(value, HybridIndex) and not isinstance(value, type):
            value.close()
    return names
