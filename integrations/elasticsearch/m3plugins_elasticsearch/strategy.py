"""M3's dense and sparse heads in the official client's `VectorStore`, and in the stores built on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from elasticsearch.helpers.vectorstore import (
    AsyncEmbeddingService,
    AsyncRetrievalStrategy,
    EmbeddingService,
    RetrievalStrategy,
)

from m3plugins import HybridWeights, M3Encoder, M3Output
from m3plugins.encoding import shared_encoder
from m3plugins.encoding.sparse import SparseVector
from m3plugins.fusion.weighted import check_weights
from m3plugins_elasticsearch.identity import index_options
from m3plugins_elasticsearch.requests import MAX_K
from m3plugins_elasticsearch.rows import rounded, token_weights

_HEADS = ("dense", "sparse")
_SHARE = 0.25
"""The part of a query's sparse score with itself from which on a document is a candidate of the sparse head. Nearly
every document shares some token: on SciFact (m3-mini, medians) a fifth of all reach 0.1, few reach 0.25, the ten best
0.44."""

Query = dict[str, Any]


class M3Fields:
    """Which fields M3's vectors are in, and the query that goes by them. See `M3RetrievalStrategy`."""

    def __init__(
        self,
        encoder: M3Encoder | str = "BAAI/bge-m3",
        *,
        weights: HybridWeights | None = None,
        dense_index: str | Mapping[str, Any] = "int8_hnsw",
        window: int = 1_000,
    ) -> None:
        self.encoder = _encoder(encoder)
        self.weights = check_weights(weights)
        self.dense_index = index_options(dense_index)
        self.window = window
        if not (self.weights.dense or self.weights.sparse):
            msg = f"weights must count the dense or the sparse head, which are the ones stored here, got {weights}"
            raise ValueError(msg)
        if not 1 <= window <= MAX_K:
            msg = f"window must be 1 to {MAX_K:,} documents, got {window:,}"
            raise ValueError(msg)

    def needs_inference(self) -> bool:
        """True: embeddings come from outside Elasticsearch."""
        return True

    def es_mappings_settings(
        self, *, text_field: str, vector_field: str, num_dimensions: int | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The mapping of the vector field: an object with a dense and a sparse vector."""
        dense = {
            "type": "dense_vector",
            "dims": num_dimensions or self.encoder.dim,
            "index": True,
            "similarity": "dot_product",
            "index_options": self.dense_index,
        }
        sparse = {"type": "sparse_vector", "index_options": {"prune": False}}
        fields = {"dynamic": "strict", "properties": {"dense": dense, "sparse": sparse}}
        return {"properties": {vector_field: fields}}, {}

    def es_query(
        self,
        *,
        query: str | None,
        query_vector: list[float] | None,
        text_field: str,
        vector_field: str,
        k: int,
        num_candidates: int,
        filter: Sequence[Query] = (),
    ) -> dict[str, Any]:
        """The body of one search.

        Raises:
            ValueError: If there is neither a text nor a vector; if there is a vector only, and the dense head
                does not count.
        """
        if query is None and (query_vector is None or not self.weights.dense):
            msg = "a search needs a query, or a query_vector where the dense head counts, got neither"
            raise ValueError(msg)
        tokens: dict[str, float] = {}
        if query is not None:
            output = self.encoder.memo.encode_queries([query], heads=_HEADS)
            assert output.dense is not None and output.sparse is not None
            query_vector = output.dense[0].tolist() if query_vector is None else query_vector
            tokens = token_weights(output.sparse[0]) if self.weights.sparse else {}

        clauses: list[Query] = []
        lexical = {"field": f"{vector_field}.sparse", "query_vector": tokens, "prune": False}
        if self.weights.dense:
            window = min(max(self.window, num_candidates, k), MAX_K)
            nearest = {
                "field": f"{vector_field}.dense",
                "query_vector": query_vector,
                "k": window,
                "num_candidates": window,
                "rescore_vector": {"oversample": 1.0},  # scores by whole vectors
                "boost": 2 * self.weights.dense,  # of (1 + cosine) / 2
            }
            clauses.append({"knn": {**nearest, "filter": list(filter)}})
            if tokens:
                least = _SHARE * sum(weight * weight for weight in tokens.values())
                sharing = {"function_score": {"query": {"sparse_vector": lexical}, "min_score": least}}
                clauses = [{"dis_max": {"queries": [*clauses, {"knn": {**nearest, "filter": [*filter, sharing]}}]}}]
        if tokens:
            clauses.append({"sparse_vector": {**lexical, "boost": self.weights.sparse}})
        if self.weights.bm25 and query is not None:
            clauses.append({"match": {text_field: {"query": query, "boost": self.weights.bm25}}})
        clauses = clauses or [{"match_none": {}}]
        return {"query": {"bool": {"should": clauses, "minimum_should_match": 1, "filter": list(filter)}}}


class M3RetrievalStrategy(M3Fields, RetrievalStrategy):
    """Stores M3's dense and sparse vectors, and searches by both in one request, on the Basic licence.

    A hit's `_score` is M3's weighted score and one constant: `dense * (1 + cosine) + sparse * dot product`, with
    Elasticsearch's BM25 score of the text on top where that has a weight. Whole vectors are compared, whatever
    `dense_index` is; token weights are stored with 9 significant bits (an error of 0.2 % at most).

    A document has this score if it is one of the `window` nearest in its shard, or one of the `window` nearest of those
    that share the query's weighty tokens. Any other has only its sparse part, and so comes late. Where a shard has no
    more than `window` documents the order is M3's own for all of them; of 5,183 abstracts (SciFact) the ten best were
    M3's own for every one of 100 queries, and for 98 with the weights 0.15 / 0.5. Elasticsearch 9.5 keeps to the window
    in every index but "flat": there all documents that pass the filter are in it, so that all have this score, whatever
    the window, and a search is a scan of them. Elasticsearch 8.19 keeps to it in "flat" too.

    The store must be given `M3EmbeddingService`, which writes both vectors. A search by a vector goes by the dense
    head. A store's MMR, which reads one vector a document, does not work; `ElasticsearchHybridIndex` has that, and
    the multi-vector head. From Elasticsearch 9.2 on, a source comes without its vectors unless they are named.

    The store makes the index and asks nothing of the cluster: `check_versions(client)` says whether they go together,
    and from 9.5 on `custom_index_settings={"index.dense_vector.hnsw_enable_early_termination": False}` of the store
    has the graph of a dense index searched to its end.

    Args:
        encoder: An encoder; or the name of a model, whose encoder is shared with all who name it.
        weights: How much each head counts; that of the multi-vector head, which is not stored, is not used.
        dense_index: A type of index ("flat", "hnsw", "int8_hnsw", ...) or `index_options` of one.
        window: Documents a shard, 10,000 at most. A search for more documents, or more candidates, raises it.

    Raises:
        ValueError: If an option is not possible.

    Example:
        ```python
        encoder = M3Encoder.from_pretrained("BAAI/bge-m3")
        store = VectorStore(
            client,
            index="docs",
            retrieval_strategy=M3RetrievalStrategy(encoder),
            embedding_service=M3EmbeddingService(encoder),
        )
        store.add_texts(["The fox jumps over the dog."])
        hits = store.search(query="a fox", k=4)
        ```
    """


class AsyncM3RetrievalStrategy(M3Fields, AsyncRetrievalStrategy):
    """`M3RetrievalStrategy` for `AsyncVectorStore`; with `AsyncM3EmbeddingService`.

    The client's `AsyncElasticsearch` needs aiohttp: `pip install "m3plugins-elasticsearch[async]"`.
    """


class M3EmbeddingService(EmbeddingService):
    """What `M3RetrievalStrategy` stores and asks for, one forward pass a text.

    Args:
        encoder: An encoder; or the name of a model, whose encoder is shared with all who name it.
    """

    def __init__(self, encoder: M3Encoder | str = "BAAI/bge-m3") -> None:
        self.encoder = _encoder(encoder)

    def embed_documents(self, texts: Sequence[str]) -> list[Any]:
        """The two fields of each text's vector, in order.

        Raises:
            TypeError: If `texts` is one string or holds something else than strings.
        """
        return vector_fields(self.encoder.memo.encode_documents(texts, heads=_HEADS))

    def embed_query(self, query: str) -> list[float]:
        """The dense vector; the strategy itself finds the sparse one in the encoder's memo."""
        dense = self.encoder.memo.encode_queries([query], heads=["dense"]).dense
        assert dense is not None
        row: list[float] = dense[0].tolist()
        return row


class AsyncM3EmbeddingService(AsyncEmbeddingService):
    """`M3EmbeddingService` for `AsyncVectorStore`; it encodes in a thread."""

    def __init__(self, encoder: M3Encoder | str = "BAAI/bge-m3") -> None:
        self._service = M3EmbeddingService(encoder)

    @property
    def encoder(self) -> M3Encoder:
        """What encodes."""
        return self._service.encoder

    async def embed_documents(self, texts: Sequence[str]) -> list[Any]:
        """The two fields of each text's vector, in order."""
        return await asyncio.to_thread(self._service.embed_documents, texts)

    async def embed_query(self, query: str) -> list[float]:
        """The dense vector."""
        return await asyncio.to_thread(self._service.embed_query, query)


def vector_fields(output: M3Output) -> list[dict[str, Any]]:
    """The value of the vector field of each text. A text without tokens has no sparse weights, which is allowed."""
    assert output.dense is not None and output.sparse is not None
    sparse = [token_weights(SparseVector(row.indices, rounded(row.values))) for row in output.sparse]
    return [{"dense": dense, "sparse": row} for dense, row in zip(output.dense.tolist(), sparse, strict=True)]


def _encoder(encoder: M3Encoder | str) -> M3Encoder:
    return encoder if isinstance(encoder, M3Encoder) else shared_encoder(encoder)
