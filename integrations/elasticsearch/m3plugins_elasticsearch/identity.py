"""What made an index's vectors, and how they are kept: in the mapping's `_meta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from typing_extensions import Self

from m3plugins.compression import DEFAULT_CODEC
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.identity import Identity as Index

FORMAT = 2
_READABLE = (1, FORMAT)
"""Format 1 records neither what decides the vectors nor probes; all else is the same."""

INT8_HNSW: Mapping[str, Any] = {"type": "int8_hnsw"}

OVERSAMPLE: Mapping[str, float] = {
    "flat": 1.0,
    "hnsw": 1.0,
    "int8_flat": 2.0,
    "int8_hnsw": 2.0,
    "int4_flat": 4.0,
    "int4_hnsw": 4.0,
    "bbq_flat": 5.0,
    "bbq_hnsw": 5.0,
}
"""How many times as many candidates as are asked for are compared by their whole vectors, by type of dense index."""


@dataclass(frozen=True, kw_only=True)
class Identity(Index):
    """Read on open, compared with the encoder.

    Attributes:
        dense_index: `index_options` of the dense vectors.
        bm25: An analyzer's name, or its definition, of the full-text search, if there is one.
        metadata: Mappings of metadata fields; None takes any.
        fields: Paths of text and title, where the documents are someone else's; None where they are ours.
        format: Version of the layout.
    """

    ATTRIBUTES: ClassVar[Mapping[str, str]] = {**Index.ATTRIBUTES, "metadata_fields": "metadata"}

    dense_index: Mapping[str, Any] = field(default_factory=lambda: dict(INT8_HNSW))
    bm25: str | Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] | None = None
    format: int = FORMAT

    @classmethod
    def asked(
        cls,
        encoder: M3Encoder,
        *,
        codec: str = DEFAULT_CODEC,
        dense_index: str | Mapping[str, Any] = "int8_hnsw",
        passages: Passages | None = None,
        bm25: str | Mapping[str, Any] | None = None,
        metadata_fields: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Self:
        """What an index of this encoder and these options of `create`, or of `attach`, is.

        Raises:
            TypeError: If metadata are no mappings of fields.
            ValueError: If an option is not possible.
        """
        if not _are_mappings({} if metadata_fields is None else metadata_fields):
            example = '{"year": {"type": "integer"}}'
            msg = f"metadata_fields must be mappings by field, as in {example}, got {metadata_fields!r:.200}"
            raise TypeError(msg)
        return cls.of(
            encoder,
            codec=codec,
            passages=passages,
            dense_index=index_options(dense_index),
            bm25=bm25,
            metadata=metadata_fields,
            fields=fields,
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], name: str) -> Self:
        """What `to_dict` wrote.

        Raises:
            ValueError: If it is of another format.
        """
        if stored.get("format") not in _READABLE:
            readable = " and ".join(map(str, _READABLE))
            msg = (
                f"index {name!r} has format {stored.get('format')}, this m3plugins-elasticsearch reads {readable}; "
                "use its version"
            )
            raise ValueError(msg)
        return cls(**{**stored, "format": FORMAT})

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def index_options(asked: str | Mapping[str, Any]) -> dict[str, Any]:
    """Elasticsearch's `index_options` of a dense index.

    Raises:
        ValueError: If its type is none that keeps whole vectors.
    """
    options = dict(asked) if isinstance(asked, Mapping) else {"type": asked}
    if str(options.get("type")) not in OVERSAMPLE:
        msg = f"dense_index must be of a type among {', '.join(OVERSAMPLE)}, got {asked!r}"
        raise ValueError(msg)
    return options


def _are_mappings(fields: object) -> bool:
    return isinstance(fields, Mapping) and all(
        isinstance(name, str) and isinstance(mapping, Mapping) for name, mapping in fields.items()
    )
