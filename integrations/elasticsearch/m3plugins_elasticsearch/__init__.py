"""M3 retrieval in Elasticsearch: `ElasticsearchHybridIndex`, on any licence."""

from m3plugins.indexing import Reembedding
from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.capabilities import Capabilities
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.enricher import Enricher, EnrichReport, Metrics, VerifyReport
from m3plugins_elasticsearch.index import ElasticsearchHybridIndex
from m3plugins_elasticsearch.strategy import (
    AsyncM3EmbeddingService,
    AsyncM3RetrievalStrategy,
    M3EmbeddingService,
    M3RetrievalStrategy,
)
from m3plugins_elasticsearch.versions import check_versions

__all__ = [
    "AsyncM3EmbeddingService",
    "AsyncM3RetrievalStrategy",
    "AttachedIndex",
    "Capabilities",
    "ElasticsearchHybridIndex",
    "ElasticsearchIndexError",
    "EnrichReport",
    "Enricher",
    "M3EmbeddingService",
    "M3RetrievalStrategy",
    "Metrics",
    "Reembedding",
    "VerifyReport",
    "check_versions",
]
