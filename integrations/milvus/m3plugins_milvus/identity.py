"""What made an index's vectors: one row of the blocks' collection, written when the index is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from typing_extensions import Self

from m3plugins.compression import DEFAULT_CODEC
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.identity import Identity as Index
from m3plugins_milvus.blocks import block_row
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.schema import FLAT, documents_schema

FORMAT = 3
_READABLE = (2, FORMAT)
"""Format 2 records neither what decides the vectors nor probes; all else is the same."""

IDENTITY_KEY = "identity"
DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True)
class Identity(Index):
    """Read on open, compared with the encoder.

    Attributes:
        dense_index: Type and parameters of the dense index.
        tenant: The metadata field that is the partition key, if there is one.
        bm25: Analyzer parameters of the full-text search, if there is one.
        format: Version of the layout.
    """

    dense_index: Mapping[str, Any] = field(default_factory=lambda: dict(FLAT))
    tenant: str | None = None
    bm25: Mapping[str, Any] | None = None
    format: int = FORMAT

    @property
    def fields(self) -> frozenset[str]:
        """The documents' fields."""
        made = documents_schema(self.dim, tenant=self.tenant is not None, bm25=self.bm25)
        return frozenset(field.name for field in made.fields)

    @classmethod
    def asked(
        cls,
        encoder: M3Encoder,
        *,
        codec: str = DEFAULT_CODEC,
        passages: Passages | None = None,
        dense_index: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        bm25: str | Mapping[str, Any] | None = None,
    ) -> Self:
        """What an index made with this encoder and these options of `MilvusHybridIndex.create` is.

        Raises:
            ValueError: If an option is not possible.
        """
        if tenant is not None and not (isinstance(tenant, str) and tenant):
            msg = f"tenant must be the name of a metadata field, got {tenant!r}"
            raise ValueError(msg)
        return cls.of(
            encoder,
            codec=codec,
            passages=passages,
            dense_index={**FLAT, **(dense_index or {})},
            tenant=tenant,
            bm25={"tokenizer": bm25} if isinstance(bm25, str) else bm25 if bm25 is None else dict(bm25),
        )

    @classmethod
    def read(cls, blocks: Collection) -> Identity | None:
        """The stored identity; None if there is none.

        Raises:
            ValueError: If it is of another format.
        """
        data = _stored(blocks)
        if data in (None, DROPPED):
            return None
        stored = json.loads(data or "")
        if stored.get("format") not in _READABLE:
            readable = " and ".join(map(str, _READABLE))
            msg = (
                f"this index has format {stored.get('format')}, this m3plugins-milvus reads {readable}; use its version"
            )
            raise ValueError(msg)
        return cls(**{**stored, "format": FORMAT})

    @staticmethod
    def drop(blocks: Collection) -> None:
        """Stores that the index is being dropped: whatever a killed drop leaves is no index."""
        blocks.upsert([block_row(IDENTITY_KEY, DROPPED)])

    @staticmethod
    def is_dropped(blocks: Collection) -> bool:
        """Whether a drop has begun."""
        return _stored(blocks) == DROPPED

    def write(self, blocks: Collection) -> None:
        """Stores it."""
        blocks.upsert([block_row(IDENTITY_KEY, json.dumps(asdict(self)))])


def _stored(blocks: Collection) -> str | None:
    rows = blocks.fetch([IDENTITY_KEY], ["data"])
    return rows[IDENTITY_KEY]["data"] if IDENTITY_KEY in rows else None
