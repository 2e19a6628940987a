"""A line of `m3 doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """Whether one thing works.

    Attributes:
        name: Of what was looked at.
        status: "broken" is what m3plugins cannot do without, "warn" what some of it needs.
        detail: What was found.
        fix: What to do.
    """

    name: str
    status: Literal["ok", "warn", "broken"]
    detail: str
    fix: str = ""
