"""Runs the Python snippets of a Markdown file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from m3plugins import HybridIndex

ROOT = Path(__file__).parents[1]


def run_snippets(
    file: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    replacing: Mapping[str, str] = MappingProxyType({}),
    *,
    pasted: int = 1,
) -> dict[str, object]:
    """Runs them as they stand, one after the other, in a folder; closes the indexes and returns the names.

    Args:
        file: From the root of the repository.
        folder: Where they may write.
        monkeypatch: Of the test.
        replacing: What stands for what.
        pasted: How often each is run.
    """
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for snippet in snippets:
        for old, new in replacing.items():
            snippet = snippet.replace(old, new)
        for _ in range(pasted):
            exec(compile(snippet, file, "exec"), names)
    for value in names.values():
        if isinstance(value, HybridIndex) and not isinstance(value, type):
            value.close()
    return names
