"""M3's ranking as a LlamaIndex retriever."""

from llama_index.retrievers.m3plugins.retriever import M3Retriever

__all__ = ["M3Retriever"]
