"""What a document can be found by, in a form that Milvus compares exactly and no user's text can break.

Neither JSON paths nor LIKE on them say what `m3plugins.indexing.filters.matches` says (list elements,
booleans against integers, missing fields, hostile keys), they differ between Lite and servers, and on
Lite they cost a Python loop over every row, vectors included. So a row also carries

- `facets`, a VARCHAR of fixed-width hashes: one for each field, each type of a field's values and each value;
- bounds, two dynamic fields for each field and type: the least and the greatest of its values. Some value
  is above x if the greatest is, and below x if the least is.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from m3plugins.indexing.filters import Scalar

EXACT_NUMBER = 2**53
"""Numbers below are exact as float64, as which bounds are kept."""
EXACT_STRING = 24
"""Bounds keep this many characters; comparing with a string of fewer is exact."""


def filter_tokens(metadata: Mapping[str, Any]) -> str:
    """The hashes of a document, for `LIKE`."""
    found = {field_token(field): None for field, stored in metadata.items() if stored is not None}
    for field, element in _elements(metadata):
        found[type_token(field, element)] = found[value_token(field, element)] = None
    return " ".join(found)


def bounds(metadata: Mapping[str, Any]) -> dict[str, float | str]:
    """The least and the greatest value of each field and type, by the names of their dynamic fields."""
    columns: dict[str, list[Any]] = {}
    for field, element in _elements(metadata):
        if not isinstance(element, bool):
            columns.setdefault(type_token(field, element), []).append(ordered(element))
    return {low(t): min(c) for t, c in columns.items()} | {high(t): max(c) for t, c in columns.items()}


def low(type_token: str) -> str:
    """The dynamic field of the least value."""
    return f"lo{type_token}"


def high(type_token: str) -> str:
    """The dynamic field of the greatest value."""
    return f"hi{type_token}"


def ordered(value: float | str) -> float | str:
    """A bound: a float64, or hexadecimal UTF-8, which sorts by code point and holds no character of the user's."""
    return value[:EXACT_STRING].encode("utf-8", "surrogatepass").hex() if isinstance(value, str) else float(value)


def field_token(field: str) -> str:
    """Says that a field is there and not null."""
    return _token("field", field)


def type_token(field: str, value: Scalar) -> str:
    """Says that a field has a value of the type of this one."""
    return _token("type", field, _kind(value))


def value_token(field: str, value: Scalar) -> str:
    """Says that a field has this value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1 == 1.0
    if isinstance(value, str):
        text = str.__str__(value)  # the characters, also of an enumeration's member
    else:
        text = f"{int(value):x}" if isinstance(value, int) else repr(float(value))
    return _token("value", field, _kind(value), text)


def _elements(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for field, stored in metadata.items():
        for element in stored if isinstance(stored, list) else [stored]:
            if isinstance(element, str | bool | int | float):
                yield field, element


def _kind(value: Scalar) -> str:
    return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def _token(*parts: str) -> str:
    """24 characters of base 32: 120 bits, nothing that LIKE or a string literal treats specially."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=15).digest()
    return base64.b32encode(digest).decode()
