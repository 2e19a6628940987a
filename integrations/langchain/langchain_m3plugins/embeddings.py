"""The dense head as LangChain embeddings."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from langchain_m3plugins.fields import EncoderFields
from m3plugins import M3Output


class M3Embeddings(EncoderFields, Embeddings):
    """M3's dense vectors, unit length, as plain floats.

    Texts that the sparse embeddings of the same model, a retriever or a reranker have asked for are not
    encoded again. The async methods run in a thread.

    Example:
        >>> M3Embeddings(model="m3-mini", encoder_kwargs={"document_max_length": 256})
        M3Embeddings(model='m3-mini', encoder_kwargs={'document_max_length': 256})
    """

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Encodes documents, one vector each, in order.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
        """
        return dense_rows(self.encoder.memo.encode_documents(texts, heads=["dense"]))

    def embed_query(self, text: str) -> list[float]:
        """Encodes a query."""
        return dense_rows(self.encoder.memo.encode_queries([text], heads=["dense"]))[0]


def dense_rows(output: M3Output) -> list[list[float]]:
    """Returns the dense vectors as plain floats; the output must have them."""
    assert output.dense is not None
    rows: list[list[float]] = output.dense.tolist()
    return rows
