"""How a model is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.sentence_transformers import Prompts

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How a model is run; the checkpoint says what it is. See `M3Encoder.from_pretrained`."""

    revision: str | None = None
    backend: Literal["auto", "torch"] = "auto"
    dtype: Dtype = "auto"
    devices: tuple[str, ...] = ("auto",)
    query_max_length: int = 512
    document_max_length: int | None = None
    batch_tokens: int | None = None
    mcls: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch"):
            msg = f'backend must be "auto" or "torch", got {self.backend!r}'
            raise ValueError(msg)
        if self.dtype not in get_args(Dtype):
            msg = f"dtype must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}"
            raise ValueError(msg)
        if not self.devices:
            msg = 'devices must name at least one device, as in "cpu" or ["cuda:0", "cuda:1"], got none'
            raise ValueError(msg)
        for name in ("query_max_length", "document_max_length", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 3):
                msg = f"{name} must be an integer >= 3 (two special tokens and one of the text), got {value!r}"
                raise ValueError(msg)
        if self.mcls is not None and (isinstance(self.mcls, bool) or not isinstance(self.mcls, int) or self.mcls < 1):
            msg = f"mcls must be an integer >= 1 (tokens of text per CLS token) or None, got {self.mcls!r}"
            raise ValueError(msg)
        Prompts(*("" if prompt is None else prompt for prompt in (self.query_prompt, self.document_prompt)))

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuses options that are not for this model.

        Raises:
            ValueError: If it cannot read documents of that length, or does not pool as MCLS or prompts need.
        """
        asked, limit = self.document_max_length, checkpoint.max_length
        if asked is not None and asked > limit:
            msg = f"document_max_length must be at most {limit}, the maximum of {checkpoint.folder}, got {asked}"
            raise ValueError(msg)
        if self.mcls is not None and checkpoint.pooling != "cls":
            msg = (
                f"mcls needs a model that pools by cls, {checkpoint.folder} pools by {checkpoint.pooling}; "
                f"leave out mcls={self.mcls}"
            )
            raise ValueError(msg)
        checkpoint.prompted(query=self.query_prompt, document=self.document_prompt)
