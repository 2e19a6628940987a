"""A LlamaIndex vector store over any `HybridIndex`."""

from llama_index.vector_stores.m3plugins.store import M3VectorStore
from llama_index.vector_stores.m3plugins.store_embedding import StoreEmbedding

__all__ = ["M3VectorStore", "StoreEmbedding"]
