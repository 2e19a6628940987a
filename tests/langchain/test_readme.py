"""The Python snippets of the README run as they stand, one after the other."""

from pathlib import Path
from typing import Any

import pytest

from tests.snippets import run_snippets


@pytest.mark.filterwarnings("ignore:The 'ranker_type' and 'ranker_params' parameters:DeprecationWarning")
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("langchain_milvus")
    names: dict[str, Any] = run_snippets("integrations/langchain/README.md", tmp_path, monkeypatch)
    names["stock"].client.close()
