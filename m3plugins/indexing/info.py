"""Description of an index: model, codec, passages, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from m3plugins.encoding.passages import Passages
from m3plugins.indexing.identity import Identity


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """An index, as its engine describes it without a model.

    Attributes:
        name: Its own name.
        engine: The engine's name.
        aliases: Other names that point at it.
        model: Name of the model that made its vectors; "" if an older version made it, which recorded none.
        fingerprint: Hash of that model, 64 hex digits.
        dim: Width of the dense vectors.
        multi_vector_dim: Width of the token vectors.
        document_max_length: Tokens after which documents are cut.
        settings: What else the vectors were computed with (dtype, backend).
        codec: Name of the codec of the token vectors.
        passages: How documents are cut into what is stored; None if they are stored whole.
        documents: How many documents there are.
        passage_count: How many passages of them are stored; None if documents are stored whole.
        format: Version of the layout in the engine.
    """

    name: str
    engine: str
    aliases: tuple[str, ...]
    model: str
    fingerprint: str
    dim: int
    multi_vector_dim: int
    document_max_length: int
    settings: Mapping[str, str]
    codec: str
    passages: Passages | None
    documents: int
    passage_count: int | None
    format: int

    @classmethod
    def of(
        cls,
        identity: Identity,
        *,
        name: str,
        engine: str,
        aliases: tuple[str, ...],
        stored: int,
        first_passages: int,
        format: int,
    ) -> IndexInfo:
        """Joins what made an index with what it holds.

        Args:
            identity: What made it.
            name: Its own name.
            engine: The engine's name.
            aliases: Other names that point at it.
            stored: How many documents, or passages, it stores.
            first_passages: How many of their ids end in "#0", as those of the first passage of each document do.
            format: Version of the layout in the engine.
        """
        cut = identity.cut
        return cls(
            name=name,
            engine=engine,
            aliases=aliases,
            model=identity.model,
            fingerprint=identity.fingerprint,
            dim=identity.dim,
            multi_vector_dim=identity.multi_vector_dim,
            document_max_length=identity.document_max_length,
            settings=identity.settings,
            codec=identity.codec,
            passages=cut,
            documents=stored if cut is None else first_passages,
            passage_count=None if cut is None else stored,
            format=format,
        )
