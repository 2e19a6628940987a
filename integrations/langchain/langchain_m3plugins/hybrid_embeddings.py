"""Embeddings for Elasticsearch's store where it keeps both the dense and the sparse head."""

from __future__ import annotations

from typing import Any

from langchain_m3plugins.embeddings import M3Embeddings

try:
    from m3plugins_elasticsearch.strategy import M3EmbeddingService
except ImportError as err:
    msg = "M3 in Elasticsearch is not installed; pip install m3plugins-elasticsearch"
    raise ImportError(msg) from err


class M3HybridEmbeddings(M3Embeddings):
    """`M3Embeddings` whose documents have the fields "dense" and "sparse"; see `elasticsearch_hybrid_params`."""

    def embed_documents(self, texts: list[str]) -> list[Any]:
        """Encodes documents, with two fields for each, in order.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
        """
        return M3EmbeddingService(self.encoder).embed_documents(texts)
