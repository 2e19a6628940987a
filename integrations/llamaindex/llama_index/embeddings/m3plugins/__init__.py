"""M3's dense embeddings for LlamaIndex, and the step that encodes a node once for dense and sparse."""

from llama_index.embeddings.m3plugins.embedding import M3Embedding
from llama_index.embeddings.m3plugins.node_encoder import M3NodeEncoder

__all__ = ["M3Embedding", "M3NodeEncoder"]
