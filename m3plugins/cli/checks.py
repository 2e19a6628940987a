"""A line of `m3 doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """The result of checking one thing.

    Attributes:
        name: Name of the thing.
        status: "broken" if m3plugins cannot do without it, "warn" if some of it cannot.
        detail: The finding.
        fix: The advice, if there is any.
    """

    name: str
    status: Literal["ok", "warn", "broken"]
    detail: str
    fix: str = ""
