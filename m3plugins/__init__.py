"""BGE-M3 retrieval (dense, sparse and multi-vector from one forward pass) for the stack you already run."""

from m3plugins.encoding import M3Encoder, M3Output, MultiVectorEmbeddings, SparseEmbeddings
from m3plugins.fusion import HybridWeights
from m3plugins.indexing import Document, HybridIndex, InMemoryHybridIndex, ModelMismatchError, filters
from m3plugins.retrieval import Hit, HybridRetriever
from m3plugins.scoring import HeadScores

__version__ = "0.1.0"

__all__ = [
    "Document",
    "HeadScores",
    "Hit",
    "HybridIndex",
    "HybridRetriever",
    "HybridWeights",
    "InMemoryHybridIndex",
    "M3Encoder",
    "M3Output",
    "ModelMismatchError",
    "MultiVectorEmbeddings",
    "SparseEmbeddings",
    "filters",
]
