"""M3 retrieval in Elasticsearch: `ElasticsearchHybridIndex`, on any licence."""

from m3plugins_elasticsearch.attached import AttachedIndex
from m3plugins_elasticsearch.capabilities import Capabilities
from m3plugins_elasticsearch.client import ElasticsearchIndexError
from m3plugins_elasticsearch.index import ElasticsearchHybridIndex, Reembedding

__all__ = ["AttachedIndex", "Capabilities", "ElasticsearchHybridIndex", "ElasticsearchIndexError", "Reembedding"]
