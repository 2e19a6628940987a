"""What a document can be found by: tokens for one `keyword` field, whose order is the order of the values.

Mapped as they are, metadata of mixed types conflict, and a `flattened` field compares numbers as text. So a
document also carries tokens of our own, by which Elasticsearch answers what
`m3plugins.indexing.filters.matches` says. A token is 24 characters for the field's name, a letter, and:

- `e`: nothing; the field is there and not null;
- `b`: a boolean;
- `n`: a number, in digits that sort as numbers do;
- `s`: a string of up to `CUT` characters;
- `l`: the first `CUT` characters of a longer one, and a hash of all of it;
- `w`: a window of a longer one. Windows overlap by `EXACT` characters.

Terms compare by their UTF-8, that is by code point, as Python's strings do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from m3plugins.indexing.filters import Comparison, Scalar

CUT = 8_000
"""A token has at most 4 * CUT + 49 bytes; Elasticsearch allows 32,766."""
EXACT = 200
"""Lucene's automata refuse ranges about tokens of a thousand bytes and wildcards of some 300 characters."""
Condition = tuple[str, str | dict[str, str]]
"""The kind of a query on the tokens, and what it says of them."""
_BIAS = 2**15
_LIMIT = 2**4096
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_COMPLEMENT = str.maketrans(_DIGITS, _DIGITS[::-1])


def filter_tokens(metadata: Mapping[str, Any]) -> list[str]:
    """The distinct tokens of a document.

    Only top-level values and the elements of top-level lists count; any other value makes its field exist.

    Example:
        >>> [token[24:] for token in filter_tokens({"lang": ["de", "en"], "year": 2020, "draft": None})]
        ['e', 'sde', 'sen', 'e', 'npG05FP']
    """
    found: dict[str, None] = {}
    for field, stored in metadata.items():
        if stored is None:
            continue
        found[exists_token(field)] = None
        for element in stored if isinstance(stored, list) else [stored]:
            if isinstance(element, str | bool | int | float):
                found[value_token(field, element)] = None
            if isinstance(element, str) and len(element) > CUT:
                found.update((head(field, "w") + window, None) for window in _windows(element))
    return list(found)


def exists_token(field: str) -> str:
    """Says that a field is there and not null."""
    return head(field, "e")


def value_token(field: str, value: Scalar) -> str:
    """Says that a field has this value."""
    if isinstance(value, bool):
        return head(field, "b") + str(int(value))
    if not isinstance(value, str):
        return head(field, "n") + sortable(value)
    text = str.__str__(value)  # the characters, also of an enumeration's member
    return head(field, "s") + text if len(text) <= CUT else head(field, "l") + text[:CUT] + _digest(text)


def tokens(test: Comparison) -> list[str] | None:
    """The tokens one of which a document must have (none of which, for `ne`); None where no token decides."""
    if test.operator == "exists":
        return [exists_token(test.field)]
    if test.operator not in ("eq", "ne", "in"):
        return None
    values = test.value if isinstance(test.value, tuple) else (cast(Scalar, test.value),)
    return [value_token(test.field, v) for v in values if not isinstance(v, str) or _valid(v) == v]


def is_exact(test: Comparison) -> bool:
    """Whether `conditions` say all that the comparison says."""
    return not isinstance(test.value, str) or _asked(test.value) == test.value


def conditions(test: Comparison) -> list[Condition]:
    """An ordered comparison, a substring or a prefix as queries, one of which must match.

    Where the comparison is not `is_exact`, they match every document that it does, and others.
    """
    if not isinstance(test.value, str):
        bound = sortable(cast(float, test.value))
        return [("range", _interval(head(test.field, "n"), test.operator, bound, exact=True))]
    text = _asked(test.value)
    whole, long, window = (head(test.field, letter) for letter in "slw")
    if test.operator == "prefix":
        return [("prefix", kind + text) for kind in (whole, long)]
    if test.operator == "contains":
        escaped = re.sub(r"([*?\\])", r"\\\1", text)
        return [("wildcard", f"{kind}*{escaped}*") for kind in (whole, window)]
    return [("range", _interval(kind, test.operator, text, is_exact(test))) for kind in (whole, long)]


def head(field: str, letter: str) -> str:
    """What every token of a field and a kind begins with."""
    return _digest(field) + letter


def after(token: str) -> str:
    """The least string above all that begin with the token.

    Example:
        >>> after("ab"), after("a" + chr(0x10FFFF)), after(chr(0xD7FF)) == chr(0xE000)
        ('ac', 'b', True)
    """
    token = token.rstrip(chr(0x10FFFF))
    following = ord(token[-1]) + 1
    return token[:-1] + chr(0xE000 if following == 0xD800 else following)


def sortable(number: float) -> str:
    """Text that sorts as the number does, the same for equal numbers: sign, exponent and significant bits.

    Exact for every float, and for integers of up to 4,096 bits; those beyond count as the first of them.

    Example:
        >>> sortable(-1.5) < sortable(-1) < sortable(0) < sortable(5e-324) < sortable(2**53) < sortable(2**53 + 1)
        True
        >>> sortable(1) == sortable(1.0), sortable(-0.0)
        (True, 'o')
    """
    numerator, denominator = max(-_LIMIT, min(_LIMIT, number)).as_integer_ratio()
    if not numerator:
        return "o"
    magnitude = abs(numerator)
    exponent = magnitude.bit_length() - denominator.bit_length() + _BIAS
    significant = magnitude << (-magnitude.bit_length() % 8)
    bits = exponent.to_bytes(2, "big") + significant.to_bytes(significant.bit_length() // 8, "big")
    digits = base64.b32hexencode(bits).decode().rstrip("=0")
    return f"p{digits}" if numerator > 0 else f"n{digits.translate(_COMPLEMENT)}~"


def _windows(text: str) -> Iterator[str]:
    for start in range(0, len(text) - EXACT, CUT - EXACT):
        yield text[start : start + CUT]


def _interval(kind: str, operator: str, text: str, exact: bool) -> dict[str, str]:
    if operator in ("gt", "gte"):
        return {operator: kind + text, "lt": after(kind)}
    return {"gte": kind} | ({operator: kind + text} if exact else {"lt": after(kind + text)})


def _asked(text: str) -> str:
    """Says as much as a query can."""
    return _valid(text)[:EXACT]


def _valid(text: str) -> str:
    """What is ahead of a lone surrogate, which no stored text has and no request can carry."""
    return re.split("[\ud800-\udfff]", text, maxsplit=1)[0]


def _digest(text: str) -> str:
    """24 characters of base 32: 120 bits."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=15).digest()
    return base64.b32encode(digest).decode()
