"""Checks of what the verbs of an index are given."""

from __future__ import annotations

from collections.abc import Sequence


def check_ids(ids: Sequence[str]) -> list[str]:
    """Returns the distinct ids, in their order.

    Raises:
        TypeError: If `ids` is not a sequence of strings.
    """
    if isinstance(ids, str) or not all(isinstance(i, str) for i in ids):
        msg = f"ids must be a list of strings, got {ids!r}"
        raise TypeError(msg)
    return list(dict.fromkeys(ids))


def check_one_of(**selectors: object) -> None:
    """Refuses none or several of the ways to name documents.

    Raises:
        ValueError: If not exactly one is given.
    """
    given = [name for name, value in selectors.items() if value is not None]
    if len(given) != 1:
        msg = f"give exactly one of {', '.join(selectors)}, got {' and '.join(given) or 'none'}"
        raise ValueError(msg)
