"""The Python snippets of the READMEs run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

from m3plugins_milvus import MilvusHybridIndex

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("readme", ["README.md", "integrations/milvus/README.md"])
def test_snippets_run(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, readme, "exec"), names)
    for index in names.values():
        if isinstance(index, MilvusHybridIndex):
            index.close()
