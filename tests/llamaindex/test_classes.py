"""What LlamaIndex and a user's import see of the distribution."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import TransformComponent
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from llama_index.embeddings.m3plugins import M3Embedding, M3NodeEncoder
from llama_index.postprocessor.m3plugins import M3Rerank
from llama_index.retrievers.m3plugins import M3Retriever
from llama_index.sparse_embeddings.m3plugins import M3SparseEmbedding
from llama_index.vector_stores.m3plugins import M3VectorStore, StoreEmbedding

PACKAGES = {
    "embeddings": ["M3Embedding", "M3NodeEncoder"],
    "postprocessor": ["M3Rerank"],
    "retrievers": ["M3Retriever"],
    "sparse_embeddings": ["M3SparseEmbedding"],
    "vector_stores": ["M3VectorStore", "StoreEmbedding"],
}


@pytest.mark.parametrize(
    ("ours", "base"),
    [
        (M3Embedding, BaseEmbedding),
        (M3NodeEncoder, TransformComponent),
        (M3Rerank, BaseNodePostprocessor),
        (M3Retriever, BaseRetriever),
        (M3SparseEmbedding, BaseSparseEmbedding),
        (M3VectorStore, BasePydanticVectorStore),
        (StoreEmbedding, BaseEmbedding),
    ],
)
def test_class(ours: type, base: type):
    assert base.__name__ in [each.__name__ for each in ours.__mro__]
    assert not hasattr(ours, "class_name") or ours.class_name() == ours.__name__


@pytest.mark.parametrize(("package", "names"), PACKAGES.items())
def test_the_public_names_of_each_package_are_these(package: str, names: list[str]):
    module = importlib.import_module(f"llama_index.{package}.m3plugins")
    assert module.__all__ == names
    assert (Path(module.__file__).parent / "py.typed").exists()


def test_the_namespace_stays_one_of_many():
    import llama_index

    assert llama_index.__file__ is None
    folder = Path(importlib.import_module("llama_index.embeddings.m3plugins").__file__).parents[2]
    assert not [*folder.glob("__init__.py"), *folder.glob("*/__init__.py")]


def test_importing_loads_no_model_code():
    imports = "; ".join(f"import llama_index.{package}.m3plugins" for package in PACKAGES)
    check = "import sys; assert not {'torch', 'transformers', 'pymilvus'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True)
