import re
from pathlib import Path

import pytest

import m3plugins_milvus

FOLDER = Path(m3plugins_milvus.__file__).parents[1]


def test_names():
    assert m3plugins_milvus.__all__ == [
        "AttachedIndex",
        "Fields",
        "M3EmbeddingFunction",
        "M3RerankFunction",
        "MilvusHybridIndex",
        "MilvusIndexError",
        "RerankResult",
        "hybrid_index_params",
        "hybrid_ranker",
        "hybrid_rows",
        "hybrid_schema",
        "hybrid_search_requests",
    ]


@pytest.mark.skipif(not (FOLDER / "README.md").exists(), reason="installed without its README")
def test_the_readme_runs(checkpoint, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"m3-mini"', repr(str(checkpoint))), {})
