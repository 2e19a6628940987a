"""M3's sparse embeddings for LlamaIndex."""

from llama_index.sparse_embeddings.m3plugins.embedding import M3SparseEmbedding

__all__ = ["M3SparseEmbedding"]
