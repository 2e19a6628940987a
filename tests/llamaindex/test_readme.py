"""The Python snippets of the README run as they stand, one after the other, and so does the example."""

import re
import runpy
from pathlib import Path

import pytest

from m3plugins_milvus import MilvusHybridIndex

ROOT = Path(__file__).parents[2]
README = ROOT / "integrations" / "llamaindex" / "README.md"


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, README.name, "exec"), names)
    for index in names.values():
        if isinstance(index, MilvusHybridIndex):
            index.close()


def test_the_example_answers_with_its_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "fox.md").write_text("# Foxes\n\nA fox sleeps by day.\n\n# Rivers\n\nA river never sleeps.\n")
    main = runpy.run_path(str(ROOT / "examples" / "llamaindex_rag.py"))["main"]
    main(tmp_path, "When does a fox sleep?")
    out = capsys.readouterr().out
    assert "1 files, 2 passages" in out and "Question: When does a fox sleep?" in out
    assert re.search(r"Sources:\n  fox\.md \(score \d\.\d\d, dense", out)
