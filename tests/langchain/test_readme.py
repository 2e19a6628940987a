"""The Python snippets of the README run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "integrations" / "langchain" / "README.md"


@pytest.mark.filterwarnings("ignore:The 'ranker_type' and 'ranker_params' parameters:DeprecationWarning")
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), names)
    names["index"].close()
    names["stock"].client.close()
