"""The names that users type, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import langchain_m3plugins

NAMES = """M3CrossEncoder M3Embeddings M3Reranker M3Retriever M3SparseEmbeddings M3VectorStore M3VectorStoreRetriever
    elasticsearch_hybrid_params elasticsearch_params milvus_params"""


def test_all_is_what_it_was():
    assert sorted(langchain_m3plugins.__all__) == sorted(NAMES.split())
    assert all(hasattr(langchain_m3plugins, name) for name in langchain_m3plugins.__all__)


def test_types_are_shipped():
    assert (Path(langchain_m3plugins.__file__).parent / "py.typed").is_file()


def test_importing_and_making_them_loads_neither_torch_nor_a_store():
    code = """
import sys
from langchain_m3plugins import M3CrossEncoder, M3Embeddings, M3Reranker, M3SparseEmbeddings
for kind in (M3CrossEncoder, M3Embeddings, M3Reranker, M3SparseEmbeddings):
    kind(model="m3-mini")
print([name for name in ("torch", "transformers", "langchain_classic", "elasticsearch") if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
