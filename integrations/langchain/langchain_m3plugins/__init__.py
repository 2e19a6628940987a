"""M3 in LangChain: retriever, vector store, embeddings and rerankers over any `HybridIndex`."""

from langchain_m3plugins.cross_encoder import M3CrossEncoder
from langchain_m3plugins.embeddings import M3Embeddings
from langchain_m3plugins.hosts import elasticsearch_hybrid_params, elasticsearch_params, milvus_params
from langchain_m3plugins.reranker import M3Reranker
from langchain_m3plugins.retriever import M3Retriever
from langchain_m3plugins.sparse_embeddings import M3SparseEmbeddings
from langchain_m3plugins.vectorstore import M3VectorStore
from langchain_m3plugins.vectorstore_retriever import M3VectorStoreRetriever

__all__ = [
    "M3CrossEncoder",
    "M3Embeddings",
    "M3Reranker",
    "M3Retriever",
    "M3SparseEmbeddings",
    "M3VectorStore",
    "M3VectorStoreRetriever",
    "elasticsearch_hybrid_params",
    "elasticsearch_params",
    "milvus_params",
]
