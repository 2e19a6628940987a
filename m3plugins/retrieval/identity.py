"""What made an index's vectors: stored with it, compared with the encoder when it is opened."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from typing_extensions import Self

from m3plugins.compression import get_codec
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.retrieval.index import ModelMismatchError


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What made an index's vectors and how they are stored. Engines add their own options.

    Attributes:
        ATTRIBUTES: The attribute that an option is compared by, where it has another name than the option.
        model: Its name, for people: models of one name may differ, and those of two names be equal. "" if an older
            version made the index, which recorded none.
        fingerprint: Of the model: weights, heads, tokenizer, pooling.
        dim: Width of the dense vectors.
        multi_vector_dim: Width of the token vectors.
        vocab_size: Width of the sparse vectors.
        document_max_length: Tokens after which documents were cut.
        settings: What else the vectors were computed with (dtype, backend).
        codec: Name of the codec of the token vectors; "" if they are not stored, or as they are.
        passages: `Passages` that documents are cut into, as a mapping; None if they are stored whole.
    """

    ATTRIBUTES: ClassVar[Mapping[str, str]] = {"passages": "cut"}

    fingerprint: str
    dim: int
    multi_vector_dim: int
    vocab_size: int
    document_max_length: int
    settings: Mapping[str, str]
    codec: str = ""
    passages: Mapping[str, int] | None = None
    model: str = field(default="", compare=False)

    @classmethod
    def of(
        cls, encoder: M3Encoder, *, codec: str | None = None, passages: Passages | None = None, **options: Any
    ) -> Self:
        """What an index made with this encoder and these options is.

        Raises:
            ValueError: If an option is not possible.
        """
        if codec is not None:
            get_codec(codec)
        if passages is not None:
            passages.split("", encoder)  # refuses a size that the model has not
        cut = None if passages is None else asdict(passages)
        return cls(**_facts(encoder), codec=codec or "", passages=cut, **options)

    def of_another(self, encoder: M3Encoder) -> Self:
        """The same options with another encoder.

        Raises:
            ValueError: If its passages are not possible with that encoder.
        """
        if self.cut is not None:
            self.cut.split("", encoder)
        return replace(self, **_facts(encoder))

    @property
    def cut(self) -> Passages | None:
        """How documents are cut into passages."""
        return None if self.passages is None else Passages(**self.passages)

    def check(self, encoder: M3Encoder, name: str) -> None:
        """Compares the index with an encoder; a difference that changes no meaning warns.

        Raises:
            ModelMismatchError: If the vectors are another model's.
        """
        if encoder.fingerprint != self.fingerprint:
            made_by = repr(self.model) if self.model else "a model whose name was not recorded"
            encoders = f"{encoder.name!r} ({_short(encoder.fingerprint)})"
            encoders += ": weights, prompts or mcls differ" if self.model == encoder.name else ""
            msg = (
                f"index {name!r} holds vectors of {made_by} ({_short(self.fingerprint)}), the encoder is {encoders}; "
                "open it with the model that made it, or make a second index for this encoder with "
                "`index.reembed(encoder, into=…)`"
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

    def check_options(self, asked: Identity, given: Collection[str], name: str) -> None:
        """Compares the index with what was asked for.

        Args:
            asked: What an index with the options asked for would be.
            given: Names of the options that were given, as the caller knows them: no other one is compared.
            name: Of the index.

        Raises:
            ValueError: If one differs.
        """
        for option in given:
            attribute = self.ATTRIBUTES.get(option, option)
            stored, wanted = getattr(self, attribute), getattr(asked, attribute)
            if stored != wanted:
                msg = (
                    f"the index {name!r} is there and has {option}={stored!r}, got {wanted!r}; leave {option} out to "
                    "keep what it has, or choose another name"
                )
                raise ValueError(msg)

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


def _short(fingerprint: str) -> str:
    return f"{fingerprint[:12]}…"


def _facts(encoder: M3Encoder) -> dict[str, Any]:
    return {
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "multi_vector_dim": encoder.multi_vector_dim,
        "vocab_size": encoder.vocab_size,
        "document_max_length": encoder.document_max_length,
        "settings": dict(encoder.settings),
    }
