"""Ledgers of a shard's changes: pure values that say what was handed out to whom; `leases` keeps them.

A worker claims a run of changes, works it off and gives the claim back. So any number of workers share any number of
shards, and what a dead worker held is known to the change. Below the checkpoint everything is settled.

A document may be what killed a worker: too large for the machine, say. So a claim knows how many workers died at it.
After the second death its documents are worked on one by one, and the claim begins anew behind each; the document at
which it then ends twice more is the one to blame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from m3plugins_elasticsearch.enricher.ranges import Range, left_out, merged

RELEASED = ""
"""The session of a claim that was given back unfinished."""

ALONE = 2
"""Workers that die at a claim until its documents are worked on one by one: one may be killed by anything."""

DEADLY = ALONE + 2
"""Workers that die at a claim until its first document is to blame."""


@dataclass(frozen=True)
class Claim:
    """A run of changes that is being worked on.

    Attributes:
        after: Sequence number before the first change.
        upto: Sequence number of the last change.
        session: The session that holds it; `RELEASED` if anybody may take it.
        deaths: Number of workers that died while they held it.
    """

    after: int
    upto: int
    session: str
    deaths: int = 0


@dataclass(frozen=True)
class Ledger:
    """Tracks which worker has claimed which changes of one shard.

    Attributes:
        history: The shard's history; the ledger is void for another.
        handed: Changes up to this one were handed out.
        claims: Claims that are not settled yet.
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
        """Counts the changes up to this one that are not settled; those known to be our own do not count."""
        return left_out(self.written, self.checkpoint, upto)

    def unread(self, upto: int) -> int:
        """Counts the changes up to this one, other than our own, that nobody has claimed."""
        return left_out(self.written, self.handed, upto)

    def sessions(self) -> set[str]:
        """Returns the sessions that hold claims."""
        return {claim.session for claim in self.claims}

    def left_by(self, sessions: Collection[str]) -> Claim | None:
        """Returns the first claim of one of these sessions, if there is one."""
        return next((claim for claim in self.claims if claim.session in sessions), None)

    def taken_over(self, claim: Claim, session: str) -> Ledger:
        """Hands a claim to another session."""
        deaths = claim.deaths + (claim.session != RELEASED)
        return self._replacing(claim, replace(claim, session=session, deaths=deaths))

    def released(self, session: str) -> Ledger:
        """Frees the claims of a session that ends in good order."""
        return replace(
            self, claims=tuple(replace(one, session=RELEASED) if one.session == session else one for one in self.claims)
        )

    def advanced(self, claim: Claim, after: int) -> Ledger:
        """Shortens a claim by what is done of it; what comes next is not to blame for the deaths, but suspect."""
        return self._replacing(claim, replace(claim, after=after, deaths=min(claim.deaths, ALONE)))

    def handing_out(self, upto: int, session: str) -> Ledger:
        """Hands the next changes to a session."""
        return replace(self, handed=upto, claims=(*self.claims, Claim(self.handed, upto, session)))

    def passed(self, upto: int) -> Ledger:
        """Skips to a change, where there is nothing to do before it."""
        return replace(self, handed=upto)

    def settled(self, claim: Claim, written: Iterable[int]) -> Ledger:
        """Drops a claim, and adds the sequence numbers that were written for it."""
        left = replace(self, claims=tuple(one for one in self.claims if one != claim))
        known = (*self.written, *((number, number) for number in written))
        return replace(left, written=merged(known, above=left.checkpoint))

    def _replacing(self, claim: Claim, new: Claim) -> Ledger:
        return replace(self, claims=tuple(new if one == claim else one for one in self.claims))

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Ledger:
        """Restores what `to_dict` wrote."""
        return cls(
            history=stored["history"],
            handed=stored["handed"],
            claims=tuple(Claim(**claim) for claim in stored["claims"]),
            written=tuple((first, last) for first, last in stored["written"]),
        )
