"""M3 retrieval in Milvus: `MilvusHybridIndex` on Milvus Lite (a local file) or a server."""

from m3plugins.indexing import Reembedding
from m3plugins_milvus.attached import AttachedIndex, Fields
from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.functions import M3EmbeddingFunction, M3RerankFunction, RerankResult
from m3plugins_milvus.index import MilvusHybridIndex
from m3plugins_milvus.own_schema import (
    hybrid_index_params,
    hybrid_ranker,
    hybrid_rows,
    hybrid_schema,
    hybrid_search_requests,
)

__all__ = [
    "AttachedIndex",
    "Fields",
    "M3EmbeddingFunction",
    "M3RerankFunction",
    "MilvusHybridIndex",
    "MilvusIndexError",
    "Reembedding",
    "RerankResult",
    "hybrid_index_params",
    "hybrid_ranker",
    "hybrid_rows",
    "hybrid_schema",
    "hybrid_search_requests",
]
