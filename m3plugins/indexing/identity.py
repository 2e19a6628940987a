"""What made an index's vectors: stored with it, compared with the encoder when it is opened."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from typing_extensions import Self

from m3plugins.compression import get_codec
from m3plugins.encoding.checkpoint import MULTI_VECTOR_HEAD, SPARSE_HEAD, VOCABULARIES
from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.encoding.probes import difference
from m3plugins.indexing.errors import ModelMismatchError

_NOT_SET = object()
_TOLD = 4
_DIGESTS = ("weights", SPARSE_HEAD, MULTI_VECTOR_HEAD, "weight_map", *VOCABULARIES)
"""Parts of a description whose values tell nobody anything."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What made an index's vectors and how they are stored. Engines add their own options.

    Attributes:
        ATTRIBUTES: The attribute that an option is compared by, where it has another name than the option.
        model: Its name, for people: models of one name may differ, and those of two names be equal. "" if an older
            version made the index, which recorded none.
        fingerprint: Of the model's `description`; where there is none, that of `M3Encoder.former_fingerprint`.
        dim: Width of the dense vectors.
        multi_vector_dim: Width of the token vectors.
        vocab_size: Width of the sparse vectors.
        document_max_length: Tokens after which documents were cut.
        settings: What else the vectors were computed with (dtype, backend).
        codec: Name of the codec of the token vectors; "" if they are not stored, or as they are.
        passages: `Passages` that documents are cut into, as a mapping; None if they are stored whole.
        description: What decides the vectors, by name; None if an older version made the index.
        probes: What the model made of a few known texts; None if an older version made the index.
        former: The fingerprint that the index had before it was brought up to date; "" if it was not.
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
    description: Mapping[str, Any] | None = field(default=None, compare=False)
    probes: Mapping[str, str] | None = field(default=None, compare=False)
    former: str = field(default="", compare=False)

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

        What the encoder does is compared if its model is in memory: `check_probes` is for later.

        Raises:
            ModelMismatchError: If the vectors are another model's.
        """
        known = encoder.former_fingerprint if self.description is None else encoder.fingerprint
        if known != self.fingerprint:
            raise self._mismatch(encoder, name, known, _differences(self.description, encoder.description))
        if encoder.is_loaded:
            self.check_probes(encoder, name)
        current = dict(encoder.settings)
        for key in sorted({*self.settings, *current}):
            if self.settings.get(key) != current.get(key):
                warnings.warn(
                    f"index {name!r} was made with {key}={self.settings.get(key)!r}, the encoder has "
                    f"{key}={current.get(key)!r}; scores may differ slightly",
                    stacklevel=4,
                )

    def check_probes(self, encoder: M3Encoder, name: str) -> None:
        """Compares what the encoder makes of known texts with what the index's model made of them; loads the model.

        Raises:
            ModelMismatchError: If it is something else.
        """
        if self.probes is not None and (does := difference(self.probes, encoder.probes)):
            raise self._mismatch(encoder, name, encoder.fingerprint, f"{does}, though its files are the same")

    def upgraded(self, encoder: M3Encoder) -> Self:
        """The same index as this version records it, of a model that `check` has passed; loads the model."""
        return replace(
            self,
            fingerprint=encoder.fingerprint,
            description=dict(encoder.description),
            probes=dict(encoder.probes),
            former=self.fingerprint,
            model=self.model or encoder.name,
        )

    def _mismatch(self, encoder: M3Encoder, name: str, fingerprint: str, why: str) -> ModelMismatchError:
        made_by = repr(self.model) if self.model else "a model whose name was not recorded"
        return ModelMismatchError(
            f"index {name!r} holds vectors of {made_by} ({_short(self.fingerprint)}), the encoder is {encoder.name!r} "
            f"({_short(fingerprint)}): {why}; open it with the model that made it, or make a second index for this "
            "encoder with `index.reembed(encoder, into=…)`"
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


def _differences(stored: Mapping[str, Any] | None, current: Mapping[str, Any]) -> str:
    """What differs in two descriptions, the first few by name."""
    if stored is None:
        return "its weights, heads, vocabulary, pooling, prompts or mcls differ"
    names = [name for name in {**stored, **current} if stored.get(name, _NOT_SET) != current.get(name, _NOT_SET)]
    told = [
        f"{name} differs"
        if name in _DIGESTS
        else f"{repr(name)[1:-1]:.80} is {_shown(current, name)} in place of {_shown(stored, name)}"
        for name in names[:_TOLD]
    ]
    more = [f"{len(names) - _TOLD} more"] if len(names) > _TOLD else []
    return ", ".join(told + more)


def _shown(description: Mapping[str, Any], name: str) -> str:
    return f"{description[name]!r:.80}" if name in description else "not set"


def _facts(encoder: M3Encoder) -> dict[str, Any]:
    return {
        "model": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "multi_vector_dim": encoder.multi_vector_dim,
        "vocab_size": encoder.vocab_size,
        "document_max_length": encoder.document_max_length,
        "settings": dict(encoder.settings),
        "description": dict(encoder.description),
        "probes": dict(encoder.probes),
        "former": "",
    }
