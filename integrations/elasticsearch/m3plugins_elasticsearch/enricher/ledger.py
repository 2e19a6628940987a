"""What of a shard's changes was handed out to whom: pure values, kept by `leases`.

A worker claims a run of changes, works it off and gives the claim back. So any number of workers share any number of
shards, and what a dead worker held is known to the change. Below the checkpoint everything is settled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from m3plugins_elasticsearch.enricher.ranges import Range, left_out, merged


@dataclass(frozen=True)
class Claim:
    """A run of changes that is being worked on.

    Attributes:
        after: Sequence number ahead of the first.
        upto: The last.
        session: Whose it is.
    """

    after: int
    upto: int
    session: str


@dataclass(frozen=True)
class Ledger:
    """Of one shard.

    Attributes:
        history: Of the shard; the ledger is void for another.
        handed: Changes up to this one were handed out.
        claims: Those that are not settled yet.
        written: Changes that are write-backs of ours, as far as they are remembered: nobody need look at them.
    """

    history: str
    handed: int = -1
    claims: tuple[Claim, ...] = ()
    written: tuple[Range, ...] = ()

    @property
    def checkpoint(self) -> int:
        """Every change up to this one is settled: written back, found to be unchanged, or a dead letter."""
        return min((claim.after for claim in self.claims), default=self.handed)

    def behind(self, upto: int) -> int:
        """How many changes up to this one are not settled; what is known to be our own does not count."""
        return left_out(self.written, self.checkpoint, upto)

    def unread(self, upto: int) -> int:
        """How many changes up to this one nobody has claimed, other than our own."""
        return left_out(self.written, self.handed, upto)

    def sessions(self) -> set[str]:
        """Who holds claims."""
        return {claim.session for claim in self.claims}

    def left_by(self, sessions: Collection[str]) -> Claim | None:
        """The first claim of one of these sessions."""
        return next((claim for claim in self.claims if claim.session in sessions), None)

    def taken_over(self, claim: Claim, session: str) -> Ledger:
        """The claim in another's hands."""
        others = tuple(one for one in self.claims if one != claim)
        return replace(self, claims=(*others, replace(claim, session=session)))

    def handing_out(self, upto: int, session: str) -> Ledger:
        """The next changes, in these hands."""
        return replace(self, handed=upto, claims=(*self.claims, Claim(self.handed, upto, session)))

    def passed(self, upto: int) -> Ledger:
        """Without anything to do up to here."""
        return replace(self, handed=upto)

    def settled(self, claim: Claim, written: Iterable[int]) -> Ledger:
        """Without the claim, and with the sequence numbers that were written for it."""
        left = replace(self, claims=tuple(one for one in self.claims if one != claim))
        known = (*self.written, *((number, number) for number in written))
        return replace(left, written=merged(known, above=left.checkpoint))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Ledger:
        """What `to_dict` wrote."""
        return cls(
            history=stored["history"],
            handed=stored["handed"],
            claims=tuple(Claim(**claim) for claim in stored["claims"]),
            written=tuple((first, last) for first, last in stored["written"]),
        )
