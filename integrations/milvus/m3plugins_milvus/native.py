"""Filters in Milvus' own language. Milvus treats an unknown name as a dynamic field, so we check names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<number>\d[\w.]*)|(?P<name>\$?[^\W\d]\w*)|\S""", re.DOTALL
)
_KEYWORDS = frozenset("and or not in like exists is null true false".split())
DYNAMIC = "$meta"


def field_names(expression: str) -> set[str]:
    """The fields that an expression names, `$meta["year"]` as `year`.

    Example:
        >>> sorted(field_names('lang == "en" and (json_contains(metadata["tags"], "a") or $meta["year"] > 2020)'))
        ['lang', 'metadata', 'year']
    """
    tokens = [*_TOKEN.finditer(expression)]
    texts = [*(token[0] for token in tokens), "", "", ""]
    names: set[str] = set()
    for position, token in enumerate(tokens):
        name, following, after = token["name"], texts[position + 1], texts[position + 2]
        if name is None or name.lower() in _KEYWORDS:
            continue
        is_function = following == "("
        is_argument = following == "=" and after != "="  # text_match(text, "fox dog", minimum_should_match=2)
        is_literal = following[:1] in ("'", '"')  # ISO "2025-01-01T00:00:00Z"
        if name == DYNAMIC and following == "[":
            names.add(after[1:-1])
        elif not (is_function or is_argument or is_literal):
            names.add(name)
    return names


def unknown_field(name: str, known: Iterable[str], metadata: str | None) -> ValueError:
    """The error of an expression about a field that is not there.

    Args:
        name: Of the field.
        known: The fields that there are.
        metadata: The JSON field that holds the metadata, if there is one.
    """
    fix = f'metadata are spelt {metadata}["{name}"], or use' if metadata else "correct it, or use"
    return ValueError(
        f"a Milvus expression must name fields of the collection ({', '.join(known)}), got {name!r}, by which nothing "
        f'would be found; {fix} a filter of m3plugins.indexing.filters, such as eq("{name}", "…")'
    )
