"""The names that users type: frozen, so that one cannot vanish unnoticed."""

from pathlib import Path

import m3plugins_milvus

NAMES = """AttachedIndex Fields M3EmbeddingFunction M3RerankFunction MilvusHybridIndex
    MilvusIndexError Reembedding RerankResult hybrid_index_params hybrid_ranker hybrid_rows hybrid_schema
    hybrid_search_requests"""


def test_all_is_what_it_was():
    assert sorted(m3plugins_milvus.__all__) == sorted(NAMES.split())
    assert all(hasattr(m3plugins_milvus, name) for name in m3plugins_milvus.__all__)


def test_types_are_shipped():
    assert (Path(m3plugins_milvus.__file__).parent / "py.typed").is_file()
