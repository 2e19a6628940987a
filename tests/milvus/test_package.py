import m3plugins_milvus


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
