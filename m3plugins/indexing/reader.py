"""The port that a `HybridIndex` reads through: what an engine answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from m3plugins.encoding.output import Head, M3Output
from m3plugins.indexing.document import Candidate, Digest, Document
from m3plugins.indexing.filters import AnyFilter
from m3plugins.scoring.heads import HeadScores, Signal

Plan = TypeVar("Plan")
"""A filter as the engine runs it."""


class Reader(ABC, Generic[Plan]):
    """Reads one index of an engine; safe to share among threads.

    `HybridIndex` has checked what it hands over: ids are distinct strings, heads are known, a query is finite and of
    length 1, a filter is compiled. Answers are in the order of the ids asked for, unknown ids are left out.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the engine knows the index by, also where it was opened by an alias."""

    @property
    @abstractmethod
    def bm25_fault(self) -> str:
        """Says why there is no BM25, and what to do; "" if there is."""

    @abstractmethod
    def compile(self, filter: AnyFilter | None) -> Plan:
        """Compiles a filter, neutral or of the engine's own language; None matches every document.

        Raises:
            TypeError: If it is none that the engine takes.
            ValueError: If it cannot match as it says, such as one on a field that there is not.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Document]:
        """Returns the documents of these ids, as they are now."""

    @abstractmethod
    def digests(self, ids: Sequence[str]) -> dict[str, Digest]:
        """Returns what the stored documents are compared with; one that is damaged is left out, to be written again."""

    @abstractmethod
    def count(self, plan: Plan) -> int:
        """Counts the documents that match."""

    @abstractmethod
    def scan(self, plan: Plan) -> Iterator[Document]:
        """Yields every document that matches; see `HybridIndex.scan`."""

    @abstractmethod
    def scan_embeddings(self, plan: Plan) -> Iterator[tuple[Document, M3Output]]:
        """Yields every document that matches with its embeddings; see `HybridIndex.scan`."""

    @abstractmethod
    def embeddings(self, ids: Sequence[str], heads: Sequence[Head]) -> dict[str, M3Output]:
        """Returns the embeddings on these heads, outputs of length 1."""

    @abstractmethod
    def candidates(self, query: M3Output, k: int, plan: Plan, text: str | None) -> dict[Signal, list[Candidate]]:
        """Returns the best k documents of each signal; see `HybridIndex.candidates`."""

    @abstractmethod
    def score(self, query: M3Output, ids: Sequence[str], text: str | None) -> dict[str, HeadScores]:
        """Returns exact scores; see `HybridIndex.score`."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the index holds. Called once, by the process that opened it."""
