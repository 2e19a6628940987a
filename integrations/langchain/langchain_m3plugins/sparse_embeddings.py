"""The sparse head as langchain-milvus takes it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from langchain_core.runnables.config import run_in_executor

from langchain_m3plugins.fields import EncoderFields

if TYPE_CHECKING or find_spec("langchain_milvus"):
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
else:

    class BaseSparseEmbedding:
        """Stands in where langchain-milvus, which knows sparse embeddings by their class, is not installed."""


class M3SparseEmbeddings(EncoderFields, BaseSparseEmbedding):
    """M3's token weights, `{token id: weight}` in plain numbers; a `BaseSparseEmbedding` of langchain-milvus.

    A document without a token gets `{vocab_size: 1e-6}`, which no query matches; a query without a token is
    empty, and finds nothing. The score that belongs to these vectors is the inner product, see `milvus_params`.
    """

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Encodes documents, in order; the weights of none are empty.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
        """
        sparse = self.encoder.memo.encode_documents(texts, heads=["sparse"]).sparse
        assert sparse is not None
        return sparse.to_dicts(sentinel=True)

    def embed_query(self, query: str) -> dict[int, float]:
        """Encodes a query; its weights are empty if it has no token."""
        sparse = self.encoder.memo.encode_queries([query], heads=["sparse"]).sparse
        assert sparse is not None
        return sparse[0].to_dict()

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """`embed_documents` in a thread."""
        return await run_in_executor(None, self.embed_documents, texts)

    async def aembed_query(self, query: str) -> dict[int, float]:
        """`embed_query` in a thread."""
        return await run_in_executor(None, self.embed_query, query)
