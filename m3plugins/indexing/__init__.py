"""Documents, filters, and the index that every engine keeps them in."""

from m3plugins.encoding.passages import Passages
from m3plugins.indexing import filters
from m3plugins.indexing.document import Candidate, Document, Heading
from m3plugins.indexing.errors import BrokenDocumentsError, IndexExistsError, IndexNotFoundError, ModelMismatchError
from m3plugins.indexing.in_memory import InMemoryHybridIndex
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.named_index import Reembedding
from m3plugins.indexing.reembed import ReembedError, ReembedReport
from m3plugins.indexing.report import FailedDocument, UpsertError, UpsertReport

__all__ = [
    "BrokenDocumentsError",
    "Candidate",
    "Document",
    "FailedDocument",
    "Heading",
    "HybridIndex",
    "InMemoryHybridIndex",
    "IndexExistsError",
    "IndexInfo",
    "IndexNotFoundError",
    "ModelMismatchError",
    "Passages",
    "ReembedError",
    "ReembedReport",
    "Reembedding",
    "UpsertError",
    "UpsertReport",
    "filters",
]
