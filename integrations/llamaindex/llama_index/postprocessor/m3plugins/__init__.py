"""M3 as a LlamaIndex reranker."""

from llama_index.postprocessor.m3plugins.rerank import M3Rerank

__all__ = ["M3Rerank"]
