"""Edits of JSON values and of bytes: what a case of the fuzzer is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from hypothesis import strategies as st

Case = tuple["Edit", ...]

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**7, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "0", "m3", "../outside/model-00001-of-00003.safetensors", "/etc/passwd", "x" * 70_000),
    *("a\x1b[31mb", "\x9b2J", "\u202etxt", "\ud800", "a\0b"),
    *([], {}, [0], [[]], {"": None}, [None, "a", 1.5]),
)
"""JSON values that code does not expect where it expects another kind, another range or a plain word."""

FRAGMENTS = ("", '"', '""', ",", "\t", "\n", "\r", "\r\n", "\0", "\x1b[31m", "<", "--", "{", "}", "[" * 3000, "A" * 9)
"""Strings to write into a file, besides random bytes."""


@dataclass(frozen=True)
class Edit:
    """A change of a file, or of the field of a row.

    Attributes:
        place: The file, or the field of a row.
        action: Kind of the change: "set" and "delete" change a JSON value, "splice" bytes; targets have others.
        at: Keys and indices that lead to the JSON value, or the start and the end of the bytes that are replaced.
        value: The value afterwards; bytes are in Latin-1.
    """

    place: str
    action: str
    at: tuple[str | int, ...] = ()
    value: Any = None

    def tree(self, tree: Any) -> Any:
        """A JSON value with a "set" or "delete" done; one whose path leads nowhere changes nothing."""
        return _edited(tree, self.at, self)

    def splice(self, data: bytes) -> bytes:
        """Bytes with a "splice" done."""
        start, end = (int(position) for position in self.at)
        return data[:start] + self.value.encode("latin-1") + data[end:]


def to_json(case: Case) -> str:
    """The case on one line of ASCII, as `from_json` reads it."""
    return json.dumps([astuple(edit) for edit in case])


def from_json(text: str) -> Case:
    """The case that `to_json` wrote."""
    return tuple(Edit(place, action, tuple(at), value) for place, action, at, value in json.loads(text))


def _edited(tree: Any, at: tuple[str | int, ...], edit: Edit) -> Any:
    if not at:
        return edit.value if edit.action == "set" else None
    step, rest = at[0], at[1:]
    there = step in tree if isinstance(tree, dict) else isinstance(tree, list) and step in range(len(tree))
    if not there and (rest or edit.action == "delete" or not isinstance(tree, dict)):
        return tree
    left = dict(tree) if isinstance(tree, dict) else list(tree)
    if not rest and edit.action == "delete":
        del left[step]
    else:
        left[step] = _edited(left[step] if there else None, rest, edit)
    return left


def values(likely: Iterable[Any] = ()) -> st.SearchStrategy[Any]:
    """JSON values: hostile ones, likely ones, and any number or text."""
    return st.sampled_from([*likely, *HOSTILE]) | st.integers() | st.floats(width=32) | st.text(max_size=20)


@st.composite
def tree_edits(draw: st.DrawFn, place: str, tree: Any, likely: Any = None) -> Edit:
    """An edit somewhere in a JSON value.

    Args:
        draw: Draws from other strategies.
        place: Place of the edit.
        tree: The value, as it is before.
        likely: Values that might mean something, by name of a key; a key that is missing may be added.
    """
    likely = likely or {}
    at: list[str | int] = []
    while isinstance(tree, (dict, list)) and tree and (not at or draw(st.booleans())):
        new = [name for name in likely if name not in tree] if isinstance(tree, dict) and not at else []
        step = draw(st.sampled_from([*tree, *new] if isinstance(tree, dict) else range(len(tree))))
        at.append(step)
        tree = tree[step] if step not in new else None
    if draw(st.integers(0, 3)) == 3:
        return Edit(place, "delete", tuple(at))
    return Edit(place, "set", tuple(at), draw(values(likely.get(at[-1], ()) if at else ())))


@st.composite
def splices(draw: st.DrawFn, place: str, size: int) -> Edit:
    """Bytes written over others, between them, or in the place of all up to the end.

    Args:
        draw: Draws from other strategies.
        place: Place of the edit.
        size: Number of the bytes.
    """
    start = draw(st.integers(0, size))
    end = min(size, start + draw(st.sampled_from([0, 1, 2, 8, 100, size])))
    inserted = st.sampled_from(FRAGMENTS) | st.binary(max_size=8).map(lambda data: data.decode("latin-1"))
    return Edit(place, "splice", (start, end), draw(inserted))
