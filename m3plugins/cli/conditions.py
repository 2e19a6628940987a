"""Filters and weights as they are typed: `year>=2020,lang!=en`, `dense=1,sparse=0.3`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from m3plugins.cli.errors import CallError
from m3plugins.cli.per_head import named_numbers
from m3plugins.fusion import HybridWeights
from m3plugins.indexing.filters import Filter, Scalar, and_, eq, from_dict, gt, gte, lt, lte, ne
from m3plugins.scoring.heads import SIGNALS

_EXAMPLE = """for example --filter 'year>=2020,lang!=en' or --filter '{"eq": {"lang": "en"}}'"""

_OPERATORS: Mapping[str, Callable[[str, Any], Filter]] = {
    "=": eq, "==": eq, "!=": ne, ">": gt, ">=": gte, "<": lt, "<=": lte,
}  # fmt: skip

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_CONDITION = re.compile(
    rf"""\s*(?P<field>{_QUOTED}|[^"=!<>,\s][^=!<>,]*)
         \s*(?P<operator>[!=<>]=|[=<>])
         \s*(?P<value>{_QUOTED}|[^",\s=!<>][^,]*)\s*(?:,(?!\s*$)|$)""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


def parse_filter(texts: Sequence[str]) -> Filter | None:
    """Joins the conditions of all texts into one filter; None if there are none.

    A text is JSON, as `filters.to_dict` writes it, or conditions with commas between them: a field, one of
    `= != > >= < <=`, and a value. Numbers, true and false are what they look like; anything else is a string, and so
    is what stands in double quotes, where JSON's escapes hold. A value that contains a comma, or begins with a
    character of an operator, must be quoted; a field may be.

    Raises:
        CallError: If a text is neither.

    Example:
        >>> parse_filter(["year>=2020", 'isbn="0262033844"'])  # doctest: +NORMALIZE_WHITESPACE
        And(parts=(Comparison(operator='gte', field='year', value=2020),
                   Comparison(operator='eq', field='isbn', value='0262033844')))
    """
    try:
        parts = [part for text in texts for part in _parts(text)]
    except ValueError as err:
        msg = f"--filter: {err}; {_EXAMPLE}"
        raise CallError(msg) from err
    return and_(*parts) if len(parts) > 1 else next(iter(parts), None)


def _parts(text: str) -> Iterator[Filter]:
    if text.lstrip().startswith(("{", "[")):
        yield from_dict(json.loads(text))
        return
    position = 0
    while position < len(text) or not text:
        found = _CONDITION.match(text, position)
        if found is None:
            msg = (
                f"{text[position:].strip()!r} is not a condition: write FIELD OPERATOR VALUE, with one of "
                "= != > >= < <= (not => or =<); quote a value that contains a comma or begins with an operator; "
                "put the whole filter in single quotes"
            )
            raise ValueError(msg)
        position = found.end()
        yield _OPERATORS[found["operator"]](_text(found["field"]), _value(found["value"]))


def _text(typed: str) -> str:
    return str(json.loads(typed, strict=False)) if typed.startswith('"') else typed.strip()


def _value(typed: str) -> Scalar:
    typed = typed.strip()
    if typed == "null":
        msg = 'null has no value; for a missing field use {"not": {"exists": "field"}}, for the word "null" quotes'
        raise ValueError(msg)
    if typed in ("true", "false"):
        return typed == "true"
    if _NUMBER.fullmatch(typed):
        number: int | float = json.loads(typed)
        return number
    return _text(typed)


def parse_weights(text: str) -> HybridWeights:
    """Parses weights by head; a head that is not named has weight 0. An empty text gives the default ones.

    Raises:
        CallError: If a head is unknown or named twice, or a weight is none.

    Example:
        >>> parse_weights("dense=1,sparse=0.3")
        HybridWeights(dense=1.0, sparse=0.3, multi_vector=0.0, bm25=0.0)
    """
    if not text:
        return HybridWeights()
    weights: dict[str, float] = {signal: 0.0 for signal in SIGNALS}
    try:
        return HybridWeights(**(weights | named_numbers(text, SIGNALS)))
    except ValueError as err:
        msg = f"--weights: {err}; for example --weights dense=1,sparse=0.3,multi_vector=1"
        raise CallError(msg) from err
