"""Fields that classes share: the M3 model and the reranker."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, model_validator
from typing_extensions import Self

from m3plugins import HybridWeights, M3Encoder
from m3plugins.encoding import shared_encoder
from m3plugins.reranking import M3Reranker, Reranker


class EncoderFields(BaseModel):
    """An M3 model, by name or as an encoder. Nothing is loaded until it is used.

    All who name the same model with the same options share one encoder and what it remembers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    model: Annotated[str, BeforeValidator(os.fspath)] = "BAAI/bge-m3"
    """A hub id, a checkpoint folder, or "m3-mini" (bundled, English)."""

    encoder_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of `M3Encoder.from_pretrained`, such as `dtype` or `document_max_length`."""

    encoder: InstanceOf[M3Encoder] = Field(
        default_factory=lambda fields: shared_encoder(fields["model"], **fields["encoder_kwargs"]), repr=False
    )
    """The encoder itself, in place of `model` and `encoder_kwargs`."""

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, fields: dict[str, Any]) -> dict[str, Any]:
        encoder = fields.get("encoder")
        if encoder is None:
            return {name: value for name, value in fields.items() if name != "encoder"}
        if named := sorted(fields.keys() & {"model", "encoder_kwargs"}):
            msg = f"an encoder says itself what model it is and how it runs, got {' and '.join(named)} too; drop one"
            raise ValueError(msg)
        return {**fields, "model": encoder.model} if isinstance(encoder, M3Encoder) else fields


class RerankerFields(EncoderFields):
    """The fields of a reranker: the three heads of an M3 model, or any reranker of m3plugins."""

    weights: InstanceOf[HybridWeights] | None = None
    """The weight of each head of the model; None is M3's own 1 / 0.3 / 1."""

    reranker: Reranker = Field(
        default_factory=lambda fields: M3Reranker(fields["encoder"].memo, weights=fields["weights"]), repr=False
    )
    """A reranker of m3plugins, such as `CrossEncoderReranker`, in place of a model and weights."""

    @model_validator(mode="after")
    def _one_reranker(self) -> Self:
        others = self.model_fields_set & {"model", "encoder_kwargs", "encoder", "weights"}
        if "reranker" in self.model_fields_set and others:
            msg = f"a reranker says itself how it scores, got {' and '.join(sorted(others))} too; drop one"
            raise ValueError(msg)
        return self
