"""M3's ranking over any index."""

from m3plugins.indexing import filters
from m3plugins.retrieval.explanation import Explanation, LexicalMatch, TokenMatch, explain
from m3plugins.retrieval.hit import Hit
from m3plugins.retrieval.retriever import HybridRetriever, SearchOptions

__all__ = [
    "Explanation",
    "Hit",
    "HybridRetriever",
    "LexicalMatch",
    "SearchOptions",
    "TokenMatch",
    "explain",
    "filters",
]
