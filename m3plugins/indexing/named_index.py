"""An index that an engine keeps under a name, at which aliases may point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from typing_extensions import Self

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.indexing.errors import IndexExistsError, IndexNotFoundError
from m3plugins.indexing.identity import Identity
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.info import IndexInfo
from m3plugins.indexing.reembed import ReembedReport, reembed
from m3plugins.indexing.report import Ack

Index = TypeVar("Index", bound=HybridIndex)

_ATTEMPTS = 3
"""How often to look again for an index that is there when it is made and gone when it is opened."""


@dataclass(frozen=True)
class Reembedding(Generic[Index]):
    """What `NamedIndex.reembed` made.

    Attributes:
        index: The new index, open.
        report: What was done; nothing failed.
    """

    index: Index
    report: ReembedReport


class NamedIndex(HybridIndex, ABC):
    """A `HybridIndex` of ours that an engine keeps under a name; engines add how it is made, opened and found."""

    @abstractmethod
    def describe(self) -> IndexInfo:
        """Tells what made the index, how it keeps documents, and how many."""

    @abstractmethod
    def swap(self, alias: str) -> str | None:
        """Points an alias at this index, in one step, and returns the index that it pointed at (None: none).

        Indexes that were opened by the alias before stay with their index until they are opened again.

        Raises:
            ValueError: If `alias` is the name of an index.
        """

    def reembed(
        self, encoder: M3Encoder, *, into: str, on_ack: Ack | None = None, sample: int = 32
    ) -> Reembedding[Self]:
        """Copies all documents into a second index of the same options, encoded by another encoder, and verifies it.

        This index stays as it is and goes on answering; `swap` on the new one then moves an alias. A run
        that was interrupted, or failed, goes on where it ended. Writes to this index meanwhile are followed.

        Args:
            encoder: Of the new index.
            into: Name of the new index; one that is there must be of this encoder and of this index's options.
            on_ack: Called with the ids that are stored in the new index.
            sample: How many documents to encode once more, and compare with what is stored.

        Raises:
            ValueError: If `into` is this index, one with other options, or one that an alias points at.
            ModelMismatchError: If `into` is an index of another model.
            ReembedError: If documents could not be stored, or the new index is not what this one is.
        """
        self._check_open()
        target = self._twin(encoder, into)
        try:
            if aliases := target._aliases():
                msg = f"the alias {', '.join(aliases)} points at {into!r}, its changes would be lost; name a new one"
                raise ValueError(msg)
            target.verify_model()
            self.writer.show()
            with target._writing():
                report = reembed(self, target, codec=self.identity.codec, on_ack=on_ack, sample=sample)
        except BaseException:
            target.close()
            raise
        return Reembedding(target, report)

    def drop(self) -> None:
        """Deletes the index and all in it, and closes it.

        Raises:
            ValueError: If an alias points at it.
        """
        self._check_open()
        check_no_alias(self.name, self._aliases())
        super().drop()

    @abstractmethod
    def _aliases(self) -> list[str]:
        """Returns what points at the index."""

    @abstractmethod
    def _open_beside(self, name: str, encoder: M3Encoder) -> Self:
        """Opens another index in the same place."""

    @abstractmethod
    def _create_beside(self, name: str, encoder: M3Encoder, identity: Any) -> Self:
        """Makes another index in the same place, of this identity."""

    def _twin(self, encoder: M3Encoder, name: str) -> Self:
        """Makes or opens an index with the options of this one and another encoder."""
        identity = self.identity.of_another(encoder)
        try:
            twin = self._open_beside(name, encoder)
        except IndexNotFoundError:
            return self._create_beside(name, encoder, identity)
        if twin.name == self.name or twin.identity.of_another(encoder) != identity:
            twin.close()
            what = "this index" if twin.name == self.name else f"an index with other options than {self.name!r}"
            msg = f"into must name a new index, {name!r} is {what}"
            raise ValueError(msg)
        return twin

    def _checked(self, asked: Identity, given: Collection[str]) -> Self:
        """Returns the index, if every option that was given is the one that it has; see `check_options`."""
        try:
            self.identity.check_options(asked, given, self.name)
        except BaseException:
            self.close()
            raise
        return self


def check_no_alias(name: str, aliases: Sequence[str]) -> None:
    """Refuses to drop an index that others find by an alias.

    Raises:
        ValueError: If one points at it.
    """
    if aliases:
        msg = f"the alias {', '.join(aliases)} points at {name!r}; swap it to another index first"
        raise ValueError(msg)


def opened_or_created(open: Callable[[], Index], create: Callable[[], Index]) -> Index:
    """Opens an index if it is there, and makes it otherwise; where others make it meanwhile, theirs is opened.

    Args:
        open: Opens it, or raises `IndexNotFoundError`.
        create: Makes it, or raises `IndexExistsError`.
    """
    for _ in range(_ATTEMPTS):
        with suppress(IndexNotFoundError):
            return open()
        with suppress(IndexExistsError):
            return create()
    return open()


def bm25_fault(bm25: object, name: str) -> str:
    """Says why an index of ours has no BM25, given its option; "" if it has."""
    if bm25 is not None:
        return ""
    return (
        f"index {name!r} has no BM25; leave its weight at 0, "
        'or make the index with bm25="standard" and index the documents again'
    )
