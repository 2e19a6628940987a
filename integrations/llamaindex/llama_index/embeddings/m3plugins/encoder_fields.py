"""The choice of an encoder as the fields of a component, which can be hashed, saved and made again."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from llama_index.core.bridge.pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from m3plugins.encoding import EncoderOptions, M3Encoder, shared_encoder
from m3plugins.encoding.options import Dtype

_OPTIONS = [option.name for option in fields(EncoderOptions)]

_Devices = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class EncoderFields(BaseModel):
    """Names a model and how to run it, or takes an encoder that is there already.

    All components that name the same model and options share one encoder: its weights, and what it remembers
    (`M3Encoder.memo`), so that a text costs one forward pass however many of them ask for it. Nothing is loaded until
    the first text.

    Args:
        model: A checkpoint folder, a hub id such as "BAAI/bge-m3", or "m3-mini" (bundled, English).
        encoder: An encoder, in place of a model and its options.
        **data: The options of `M3Encoder.from_pretrained`, and the other fields of the class.

    Raises:
        ValueError: If neither a model nor an encoder is given, or both; if an option is unknown or out of range.
    """

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    model_name: str = Field(alias="model", frozen=True, description="A folder, a hub id, or m3-mini.")
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit of a hub id.")
    backend: Literal["auto", "torch"] = Field(default="auto", frozen=True, description="Backend that runs the model.")
    dtype: Dtype = Field(default="auto", frozen=True, description="Precision of the forward pass; auto is float32.")
    devices: _Devices = Field(default=("auto",), frozen=True, description="Torch devices, each holds the model.")
    query_max_length: int = Field(default=512, frozen=True, description="Tokens a query is cut to.")
    document_max_length: int | None = Field(
        default=None, frozen=True, description="Tokens a document is cut to; None is the model's maximum."
    )
    batch_tokens: int | None = Field(default=None, frozen=True, description="Padded tokens per forward pass.")
    mcls: int | None = Field(default=None, frozen=True, description="Tokens of text per CLS token; None: one CLS.")
    query_prompt: str | None = Field(
        default=None, frozen=True, description="Goes ahead of queries; None is the checkpoint's own."
    )
    document_prompt: str | None = Field(
        default=None, frozen=True, description="Goes ahead of documents; None is the checkpoint's own."
    )

    _encoder: M3Encoder = PrivateAttr()

    def __init__(self, model: str | None = None, *, encoder: M3Encoder | None = None, **data: Any) -> None:
        data.pop("class_name", None)  # of a dump
        if model is not None:
            data["model_name"] = model
        if encoder is not None:
            if given := sorted(data.keys() & {"model_name", *_OPTIONS}):
                msg = f"give a model and its options, or an encoder, got an encoder and {', '.join(given)}"
                raise ValueError(msg)
            data |= {"model_name": encoder.model, **asdict(encoder.options)}
        elif "model_name" not in data:
            msg = 'name a model, as in model="BAAI/bge-m3" or model="m3-mini", or give encoder=; got neither'
            raise ValueError(msg)
        super().__init__(**data)
        options = {name: getattr(self, name) for name in _OPTIONS}
        self._encoder = encoder or shared_encoder(self.model_name, **options)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.model_name

    @property
    def encoder(self) -> M3Encoder:
        """The encoder."""
        return self._encoder
