"""What made an index's vectors: one row of the blocks' collection, written when the index is complete."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from m3plugins.compression import get_codec
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.retrieval.index import ModelMismatchError
from m3plugins_milvus.blocks import block_row
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.schema import FLAT

FORMAT = 2
IDENTITY_KEY = "identity"
DROPPED = "dropped"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Read on open, compared with the encoder.

    Attributes:
        fingerprint: Of the model: weights, heads, tokenizer, pooling.
        dim: Width of the dense vectors.
        multi_vector_dim: Width of the token vectors.
        vocab_size: Width of the sparse vectors.
        document_max_length: Tokens after which documents were cut.
        settings: What else the vectors were computed with (dtype, backend).
        codec: Name of the codec of the token vectors.
        dense_index: Type and parameters of the dense index.
        passages: `Passages` that documents are cut into, as a mapping; None if they are stored whole.
        tenant: The metadata field that is the partition key, if there is one.
        bm25: Analyzer parameters of the full-text search, if there is one.
        format: Version of the layout.
    """

    fingerprint: str
    dim: int
    multi_vector_dim: int
    vocab_size: int
    document_max_length: int
    settings: Mapping[str, str]
    codec: str
    dense_index: Mapping[str, Any] = field(default_factory=lambda: dict(FLAT))
    passages: Mapping[str, int] | None = None
    tenant: str | None = None
    bm25: Mapping[str, Any] | None = None
    format: int = FORMAT

    @classmethod
    def of(
        cls,
        encoder: M3Encoder,
        *,
        codec: str,
        dense_index: Mapping[str, Any] | None = None,
        passages: Passages | None = None,
        tenant: str | None = None,
        bm25: str | Mapping[str, Any] | None = None,
    ) -> Identity:
        """What an index made with this encoder and these options of `MilvusHybridIndex.create` is.

        Raises:
            ValueError: If an option is not possible.
        """
        get_codec(codec)
        if passages is not None:
            passages.split("", encoder)  # refuses a size that the model has not
        if tenant is not None and not (isinstance(tenant, str) and tenant):
            msg = f"tenant must be the name of a metadata field, got {tenant!r}"
            raise ValueError(msg)
        return cls(
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            multi_vector_dim=encoder.multi_vector_dim,
            vocab_size=encoder.vocab_size,
            document_max_length=encoder.document_max_length,
            settings=dict(encoder.settings),
            codec=codec,
            dense_index={**FLAT, **(dense_index or {})},
            passages=None if passages is None else asdict(passages),
            tenant=tenant,
            bm25={"tokenizer": bm25} if isinstance(bm25, str) else bm25 if bm25 is None else dict(bm25),
        )

    def of_another(self, encoder: M3Encoder) -> Identity:
        """The same options with another encoder."""
        return Identity.of(
            encoder,
            codec=self.codec,
            dense_index=self.dense_index,
            passages=self.cut,
            tenant=self.tenant,
            bm25=self.bm25,
        )

    @property
    def cut(self) -> Passages | None:
        """How documents are cut into passages."""
        return None if self.passages is None else Passages(**self.passages)

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
        if stored.get("format") != FORMAT:
            msg = f"this index has format {stored.get('format')}, this m3plugins-milvus reads {FORMAT}; use its version"
            raise ValueError(msg)
        return cls(**stored)

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

    def check(self, encoder: M3Encoder, name: str) -> None:
        """Compares the index with an encoder; a difference that changes no meaning warns.

        Raises:
            ModelMismatchError: If the vectors are another model's.
        """
        if encoder.fingerprint != self.fingerprint:
            msg = (
                f"index {name!r} holds vectors of the model {self.fingerprint}, the encoder is {encoder.fingerprint}; "
                "open it with the model it was made with, or index the documents again under another name"
            )
            raise ModelMismatchError(msg)
        current = dict(encoder.settings)
        for key in sorted({*self.settings, *current}):
            if self.settings.get(key) != current.get(key):
                warnings.warn(
                    f"index {name!r} was made with {key}={self.settings.get(key)!r}, the encoder has "
                    f"{key}={current.get(key)!r}; scores may differ slightly",
                    stacklevel=4,
                )

    def check_length(self, encoder: M3Encoder) -> None:
        """Documents of one index are all cut at the same length.

        Raises:
            ValueError: If the encoder cuts elsewhere.
        """
        if encoder.document_max_length != self.document_max_length:
            msg = (
                f"documents of this index are cut at {self.document_max_length} tokens, the encoder cuts at "
                f"{encoder.document_max_length}; load it with document_max_length={self.document_max_length}"
            )
            raise ValueError(msg)


def _stored(blocks: Collection) -> str | None:
    rows = blocks.fetch([IDENTITY_KEY], ["data"])
    return rows[IDENTITY_KEY]["data"] if IDENTITY_KEY in rows else None
