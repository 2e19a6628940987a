"""M3 retrieval in Milvus: `MilvusHybridIndex` on Milvus Lite (a local file) or a server."""

from m3plugins_milvus.client import MilvusIndexError
from m3plugins_milvus.index import MilvusHybridIndex

__all__ = ["MilvusHybridIndex", "MilvusIndexError"]
