"""What became of the documents of one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Ack = Callable[[list[str]], None]
"""Called with the ids of documents that are now stored, once each batch is."""

_SHOWN = 5
_SHOWN_ID = 100


class FailedDocument(NamedTuple):
    """A document that was not stored, or cannot be read.

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

    def raise_for_failed(self) -> None:
        """Raises for callers that have no report to give.

        Raises:
            UpsertError: If a document failed.
        """
        if self.failed:
            raise UpsertError(self)


class UpsertError(ValueError):
    """Some documents were not stored; the others were.

    Attributes:
        report: All of both.
    """

    def __init__(self, report: UpsertReport) -> None:
        stored = report.written + report.unchanged
        named = first_few(report.failed, ", in report.failed")
        super().__init__(f"{len(report.failed)} documents were not stored, {stored} were: {named}")
        self.report = report


def first_few(failed: Sequence[FailedDocument], rest: str = "") -> str:
    """Names the first few documents with their reasons, counts the others, and says by `rest` where these are."""
    named = [f"{one.id!r:.{_SHOWN_ID}}: {one.reason}" for one in failed[:_SHOWN]]
    more = [f"and {len(failed) - _SHOWN} more{rest}"] if len(failed) > _SHOWN else []
    return "; ".join(named + more)
