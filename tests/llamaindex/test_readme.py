"""The Python snippets of the README run as they stand, one after the other, and so does the example."""

import re
import runpy
from pathlib import Path

import pytest

from tests.snippets import ROOT, run_snippets


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_snippets("integrations/llamaindex/README.md", tmp_path, monkeypatch)


def test_the_example_answers_with_its_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "fox.md").write_text("# Foxes\n\nA fox sleeps by day.\n\n# Rivers\n\nA river never sleeps.\n")
    main = runpy.run_path(str(ROOT / "examples" / "llamaindex_rag.py"))["main"]
    main(tmp_path, "When does a fox sleep?")
    out = capsys.readouterr().out
    assert "1 files, 2 passages" in out and "Question: When does a fox sleep?" in out
    assert re.search(r"Sources:\n  fox\.md \(score \d\.\d\d, dense", out)
