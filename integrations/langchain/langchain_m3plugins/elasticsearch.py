"""Strategies with which Elasticsearch's vector store keeps M3's dense vectors whole."""

from __future__ import annotations

from typing import Any, Literal, get_args

try:
    from elasticsearch.helpers.vectorstore import AsyncDenseVectorStrategy, DenseVectorStrategy, DistanceMetric
except ImportError as err:
    msg = "the Elasticsearch store is not installed; pip install langchain-elasticsearch"
    raise ImportError(msg) from err

IndexType = Literal["flat", "hnsw"]


class FullPrecisionStrategy(DenseVectorStrategy):
    """The client's k-nearest-neighbours strategy with float32 vectors, compared by dot product.

    Args:
        index_type: "flat" or "hnsw", as Elasticsearch names them; its own default quantises.
    """

    def __init__(self, index_type: IndexType = "flat") -> None:
        super().__init__(distance=DistanceMetric.DOT_PRODUCT)
        self.index_type = _checked(index_type)

    def es_mappings_settings(self, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The mapping of the vector field."""
        mappings, settings = super().es_mappings_settings(**fields)
        return _whole(mappings, fields["vector_field"], self.index_type), settings


class AsyncFullPrecisionStrategy(AsyncDenseVectorStrategy):
    """`FullPrecisionStrategy` for the async store."""

    def __init__(self, index_type: IndexType = "flat") -> None:
        super().__init__(distance=DistanceMetric.DOT_PRODUCT)
        self.index_type = _checked(index_type)

    def es_mappings_settings(self, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The mapping of the vector field."""
        mappings, settings = super().es_mappings_settings(**fields)
        return _whole(mappings, fields["vector_field"], self.index_type), settings


def _checked(index_type: IndexType) -> IndexType:
    if index_type not in get_args(IndexType):
        msg = f"index_type must be {' or '.join(get_args(IndexType))}, which keep whole vectors, got {index_type!r}"
        raise ValueError(msg)
    return index_type


def _whole(mappings: dict[str, Any], vector_field: str, index_type: IndexType) -> dict[str, Any]:
    mappings["properties"][vector_field]["index_options"] = {"type": index_type}
    return mappings
