"""Stand-ins for the functions of `pymilvus.model`: the same calls and results, by m3plugins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from m3plugins import M3Encoder, SparseEmbeddings
from m3plugins.encoding.sparse import SENTINEL_WEIGHT
from m3plugins.reranking import CrossEncoderReranker, M3Reranker, Reranker

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DEFAULT_LENGTH = 512
"""Tokens after which FlagEmbedding, and so BGEM3EmbeddingFunction, cuts queries and documents."""


class M3EmbeddingFunction:
    """What `BGEM3EmbeddingFunction` does: texts in, Milvus-ready vectors of all heads out, in one forward pass.

    Results are dictionaries: "dense", a list of unit vectors (float32); "sparse", a `scipy.sparse.csr_array`,
    one row a text; "colbert_vecs", a list of (tokens, dim) arrays. Needs scipy.

    Args:
        model_name: A hub id, a checkpoint folder or "m3-mini"; or the encoder itself.
        batch_size: Texts of full length per forward pass; None suits the device.
        device: A torch device, or several; None is the first accelerator, or the CPU.
        normalize_embeddings: Must be True: M3's vectors are unit vectors.
        use_fp16: Compute in float16.
        return_dense: Return "dense".
        return_sparse: Return "sparse".
        return_colbert_vecs: Return "colbert_vecs".
        query_max_length: Tokens a query is cut to.
        passage_max_length: Tokens a document is cut to; None is the model's maximum.

    Raises:
        ValueError: If an option is not possible.
    """

    def __init__(
        self,
        model_name: str | M3Encoder = "BAAI/bge-m3",
        batch_size: int | None = None,
        device: str | list[str] | tuple[str, ...] | None = None,
        normalize_embeddings: bool = True,
        use_fp16: bool = False,
        return_dense: bool = True,
        return_sparse: bool = True,
        return_colbert_vecs: bool = False,
        *,
        query_max_length: int = DEFAULT_LENGTH,
        passage_max_length: int | None = DEFAULT_LENGTH,
    ) -> None:
        if not normalize_embeddings:
            msg = "normalize_embeddings must be True, M3's dense and token vectors are unit vectors; leave it out"
            raise ValueError(msg)
        returned = {"dense": return_dense, "sparse": return_sparse, "multi_vector": return_colbert_vecs}
        self._heads = [head for head, wanted in returned.items() if wanted]
        if not self._heads:
            msg = "one of return_dense, return_sparse and return_colbert_vecs must be True, got none"
            raise ValueError(msg)
        if isinstance(model_name, M3Encoder):
            options = (batch_size, device, use_fp16, query_max_length, passage_max_length)
            if options != (None, None, False, DEFAULT_LENGTH, DEFAULT_LENGTH):
                msg = "an encoder says itself how it runs; give device, lengths and precision to M3Encoder"
                raise ValueError(msg)
            self.encoder = model_name
        else:
            self.encoder = M3Encoder.from_pretrained(
                model_name,
                dtype="float16" if use_fp16 else "auto",
                devices=device or "auto",
                query_max_length=query_max_length,
                document_max_length=passage_max_length,
                batch_tokens=batch_size and batch_size * (passage_max_length or DEFAULT_LENGTH),
            )
        self.model_name = self.encoder.model

    @property
    def dim(self) -> dict[str, int]:
        """The width of each head; that of "sparse" is the vocabulary and one for texts without a token."""
        encoder = self.encoder
        return {"dense": encoder.dim, "sparse": encoder.vocab_size + 1, "colbert_vecs": encoder.multi_vector_dim}

    def encode_documents(self, documents: Sequence[str]) -> dict[str, Any]:
        """The vectors of documents, fit to be inserted: no sparse row is empty.

        Raises:
            TypeError: If `documents` is one string.
        """
        return self._encode(documents, query=False)

    def encode_queries(self, queries: Sequence[str]) -> dict[str, Any]:
        """The vectors of queries; the sparse row of one without a token is empty, and finds nothing.

        Raises:
            TypeError: If `queries` is one string.
        """
        return self._encode(queries, query=True)

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        """Encodes as `encode_documents` does."""
        return self.encode_documents(texts)

    def _encode(self, texts: Sequence[str], *, query: bool) -> dict[str, Any]:
        encode = self.encoder.encode_queries if query else self.encoder.encode_documents
        output = encode(texts, heads=self._heads)
        result: dict[str, Any] = {}
        if output.dense is not None:
            result["dense"] = list(output.dense)
        if output.sparse is not None:
            result["sparse"] = _csr(output.sparse, fill=not query)
        if output.multi_vector is not None:
            result["colbert_vecs"] = list(output.multi_vector)
        return result


@dataclass(frozen=True)
class RerankResult:
    """A document reranked.

    Attributes:
        text: The document.
        score: Its relevance.
        index: Its place in the list that was reranked.
    """

    text: str
    score: float
    index: int

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class M3RerankFunction:
    """What `BGERerankFunction` does: a query and documents in, the best documents out.

    Args:
        model_name: The name of a cross-encoder, whose scores are put through a sigmoid
            (`CrossEncoderReranker`); an encoder, whose three heads rerank (`M3Reranker`); or any reranker of
            m3plugins.
        device: Of the cross-encoder, as torch names it; None is the first accelerator, or the CPU.
    """

    def __init__(
        self, model_name: M3Encoder | Reranker | str = "BAAI/bge-reranker-v2-m3", *, device: str | None = None
    ) -> None:
        if isinstance(model_name, str):
            model_name = CrossEncoderReranker(model_name, normalize=True, device=device or "auto")
        self.reranker: Reranker = M3Reranker(model_name) if isinstance(model_name, M3Encoder) else model_name

    def __call__(self, query: str, documents: Sequence[str], top_k: int | None = 5) -> list[RerankResult]:
        """The best documents, best first, equal ones in their order.

        Args:
            query: The question.
            documents: The texts to rank.
            top_k: How many to return at most; None or 0 returns all.

        Raises:
            TypeError: If `documents` is one string.
            ValueError: If `top_k` is negative.
        """
        if isinstance(documents, str):
            msg = "documents must be a list of strings, got one string; put it in a list"
            raise TypeError(msg)
        if top_k is not None and top_k < 0:
            msg = f"top_k must be a number of documents, or None for all, got {top_k}"
            raise ValueError(msg)
        scores = self.reranker.score(query, documents).tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return [RerankResult(documents[i], scores[i], i) for i in order[: top_k or None]]


def _csr(sparse: SparseEmbeddings, *, fill: bool) -> csr_array:
    """The rows in a width of the vocabulary and one, where empty ones get their only value if they are filled."""
    try:
        from scipy.sparse import csr_array
    except ImportError as err:
        msg = "sparse rows are returned as scipy's, which is not installed; pip install scipy, or use M3Encoder"
        raise ImportError(msg) from err

    values, indices, indptr = sparse.values, sparse.indices, sparse.indptr
    if fill:
        sizes = np.diff(indptr)
        empty = np.flatnonzero(sizes == 0)
        values = np.insert(values, indptr[empty], np.float32(SENTINEL_WEIGHT))
        indices = np.insert(indices, indptr[empty], sparse.vocab_size)
        indptr = np.concatenate([[0], np.cumsum(np.maximum(sizes, 1))])
    return csr_array((values, indices, indptr), shape=(len(sparse), sparse.vocab_size + 1))
