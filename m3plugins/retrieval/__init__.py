"""Documents, the protocol every engine offers, and M3's ranking over it."""

from m3plugins.retrieval import filters
from m3plugins.retrieval.document import Candidate, Document, Heading, Hit
from m3plugins.retrieval.explanation import Explanation, LexicalMatch, TokenMatch, explain
from m3plugins.retrieval.index import (
    BrokenDocumentsError,
    FailedDocument,
    HybridIndex,
    IndexExistsError,
    IndexNotFoundError,
    ModelMismatchError,
    UpsertError,
    UpsertReport,
)
from m3plugins.retrieval.info import IndexInfo
from m3plugins.retrieval.memory import InMemoryHybridIndex
from m3plugins.retrieval.named_index import Reembedding
from m3plugins.retrieval.reembedding import ReembedError, ReembedReport
from m3plugins.retrieval.retriever import HybridRetriever, SearchOptions

__all__ = [
    "BrokenDocumentsError",
    "Candidate",
    "Document",
    "Explanation",
    "FailedDocument",
    "Heading",
    "Hit",
    "HybridIndex",
    "HybridRetriever",
    "InMemoryHybridIndex",
    "IndexExistsError",
    "IndexInfo",
    "IndexNotFoundError",
    "LexicalMatch",
    "ModelMismatchError",
    "ReembedError",
    "ReembedReport",
    "Reembedding",
    "SearchOptions",
    "TokenMatch",
    "UpsertError",
    "UpsertReport",
    "explain",
    "filters",
]
