"""What an engine offers: the `HybridIndex` protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head, M3Output
from m3plugins.retrieval.document import Candidate, Document
from m3plugins.retrieval.filters import Filter
from m3plugins.scoring.heads import HeadScores

Ack = Callable[[list[str]], None]
"""Called with the ids of documents that are now stored, once each batch is."""

AnyFilter = Filter | str | dict[str, Any]
"""The neutral tree, or a filter in the engine's own language (what that is, the engine says)."""


class ModelMismatchError(ValueError):
    """The index holds vectors of another model than the encoder's."""


class IndexNotFoundError(ValueError):
    """There is no index of that name, or none of ours."""


def check_ids(ids: Sequence[str]) -> list[str]:
    """The distinct ids, in their order.

    Raises:
        TypeError: If `ids` is not a sequence of strings.
    """
    if isinstance(ids, str) or not all(isinstance(i, str) for i in ids):
        msg = f"ids must be a list of strings, got {ids!r}"
        raise TypeError(msg)
    return list(dict.fromkeys(ids))


class FailedDocument(NamedTuple):
    """A document that was not stored.

    Attributes:
        id: The id it came with.
        reason: What was wrong and what to do.
    """

    id: str
    reason: str


@dataclass
class UpsertReport:
    """What became of the documents of one `upsert`.

    Attributes:
        written: Documents encoded and stored.
        unchanged: Documents that were there already, to the letter.
        failed: Documents that were not stored, each with the reason.
        truncated: Documents whose text was cut to the model's maximum length (they are stored whole).
    """

    written: int = 0
    unchanged: int = 0
    failed: list[FailedDocument] = field(default_factory=list)
    truncated: int = 0


@runtime_checkable
class HybridIndex(Protocol):
    """Documents with their three representations, in some engine.

    Engines also have the class methods `create(name, *, encoder, uri, ...)` and
    `open(name, *, encoder, uri, ...)`; the latter raises `ModelMismatchError` where the stored vectors
    are not the encoder's and `IndexNotFoundError` where there is none. All methods are safe to call from
    several threads.
    """

    @property
    def encoder(self) -> M3Encoder:
        """What encodes the documents and must encode the queries."""

    def upsert(
        self, documents: Iterable[Document], embeddings: Iterable[M3Output] | None = None, on_ack: Ack | None = None
    ) -> UpsertReport:
        """Stores documents, streamed; a document of a known id replaces the old one, if anything changed.

        Args:
            documents: Any iterable. Of two with one id, the later one wins.
            embeddings: The documents' embeddings, in the same order: an `M3Output`, or an iterable of
                outputs of any lengths. Without it the encoder makes them.
            on_ack: Called with the ids of each batch once they are stored or known to be unchanged.
        """

    def delete(self, ids: Sequence[str] | None = None, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """Deletes by ids or by filter (exactly one of them); returns how many documents went."""

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order; unknown ids are left out."""

    def count(self, filter: AnyFilter | None = None) -> int:  # noqa: A002
        """How many documents there are, or match."""

    @overload
    def scan(self, filter: AnyFilter | None = None, with_embeddings: Literal[False] = False) -> Iterator[Document]: ...
    @overload
    def scan(
        self, filter: AnyFilter | None = None, *, with_embeddings: Literal[True]
    ) -> Iterator[tuple[Document, M3Output]]: ...
    def scan(
        self,
        filter: AnyFilter | None = None,  # noqa: A002
        with_embeddings: bool = False,
    ) -> Iterator[Document] | Iterator[tuple[Document, M3Output]]:
        """Every document that matches, in no particular order, in bounded memory.

        With embeddings it gives pairs of a document and its output of length 1.
        """

    def candidates(
        self,
        query: M3Output,
        k: int,
        filter: AnyFilter | None = None,  # noqa: A002
    ) -> dict[Head, list[Candidate]]:
        """The best k documents of the dense and of the sparse head (those that `query`, of length 1, has)."""

    def score(self, query: M3Output, ids: Sequence[str]) -> dict[str, HeadScores]:
        """Exact scores, on the heads that `query` has, of the given documents; unknown ids are left out."""

    def drop(self) -> None:
        """Deletes the index and all in it."""

    def __enter__(self) -> Self:
        """The index itself."""

    def __exit__(self, *error: object) -> None:
        """Closes it."""

    def close(self) -> None:
        """Frees what the index holds; any further call raises `ValueError`."""
