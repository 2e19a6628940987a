"""The part of a document that answers a query, found by the vectors that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.fusion import HybridWeights
from m3plugins.indexing.document import Document
from m3plugins.scoring.products import dot_products

_TOKENS = 48
_CHARACTERS = 400
_READ = 1 << 17
"""Characters of a text that are looked through."""
_MARKED = 0.4
"""A token is shown as a match from this part of the strongest token's share of the score on."""


@dataclass(frozen=True)
class Snippet:
    """A part of a document's text.

    Attributes:
        text: The part, as it stands in the document.
        start: Position of its beginning in the document, in characters.
        end: Position of its end.
        matches: Start and end of each match of the query, in characters of the document's text.
    """

    text: str
    start: int
    end: int
    matches: tuple[tuple[int, int], ...] = ()


def snippet(
    query: str,
    embedded: M3Output,
    document: Document,
    stored: M3Output | None,
    *,
    encoder: M3Encoder,
    weights: HybridWeights,
    tokens: int = _TOKENS,
) -> Snippet:
    """Chooses the window of a text that a query's sparse and multi-vector heads score best, its matches in the middle.

    The score of a window is that of a document, over the window's tokens alone: the weights of the word pieces it
    shares with the query, and for each token of the query its nearest token vector, where a token counts as much as
    its sparse weight says, so that "the" is not what a snippet is chosen for. The text is tokenised, not encoded.

    Args:
        query: The question.
        embedded: The query's embeddings, of length 1.
        document: The document that was found.
        stored: The document's embeddings, of length 1; None shows the beginning.
        encoder: The encoder that made both.
        weights: The weights of the search; if neither head counts there, the defaults do.
        tokens: Length of the window.
    """
    if not (weights.sparse or weights.multi_vector):
        weights = HybridWeights()
    if len(document.text) > _READ:
        document = replace(document, text=document.text[:_READ])
    shown, content = document.text.rstrip(), document.content
    read = encoder.document_layout.prompt + content
    begin = len(read) - min(len(shown), len(content))  # after prompt and title
    shift = len(shown) - len(read)
    encoding = encoder.tokenizer.encode(read, add_special_tokens=False)
    spans = np.array(encoding.offsets, np.int64).reshape(-1, 2).clip(min=begin)
    body = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if not len(body) or stored is None:
        return _cut(document.text, 0, min(_CHARACTERS, len(document.text)), [])
    ids = np.array(encoding.ids)
    asked, held = _weights(embedded), _weights(stored)
    parts = [np.zeros((len(body), 1), np.float32), weights.sparse * _shared(ids[body], asked, held)]
    if weights.multi_vector and embedded.multi_vector is not None and stored.multi_vector is not None:
        vectors = stored.multi_vector[0][:-1]  # less the end's
        if len(vectors) == len(ids) or stored.truncated[0]:
            pieces = encoder.tokenizer.encode(encoder.query_layout.prompt + query, add_special_tokens=False).ids
            counts = [asked.get(i, 0) for i in pieces]
            nearest = _nearest(body, vectors, embedded.multi_vector[0][:-1], counts)
            parts.append(weights.multi_vector * nearest)
    columns = np.concatenate(parts, axis=1)
    first, last = _window(columns, tokens)
    matches = spans[body[first + _matching(columns[first:last])]] + shift
    start, end = spans[body[first], 0] + shift, spans[body[last - 1], 1] + shift
    return _cut(document.text, 0 if not first else int(start), int(end), matches.tolist())


def _weights(output: M3Output) -> dict[int, float]:
    return {} if output.sparse is None else output.sparse[0].to_dict()


def _shared(ids: NDArray[np.int64], query: Mapping[int, float], document: Mapping[int, float]) -> NDArray[np.float32]:
    """Computes what each token adds to the sparse score, by the shared word pieces, shape (tokens, pieces)."""
    pieces = np.array(sorted(query.keys() & document.keys()), np.int64)
    products = np.array([query[i] * document[i] for i in pieces.tolist()], np.float32)
    shared: NDArray[np.float32] = np.equal.outer(ids, pieces) * products
    return shared


def _nearest(
    rows: NDArray[np.int64], vectors: NDArray[np.generic], asked: NDArray[np.float32], weights: Sequence[float]
) -> NDArray[np.float32]:
    """Computes what each token may add to the multi-vector score, by the query's tokens, shape (tokens, query tokens).

    Args:
        rows: Rows of the tokens' vectors; tokens beyond what the model read have none and add nothing.
        vectors: Token vectors of the document.
        asked: Token vectors of the query.
        weights: Weight of each token of the query.
    """
    counts = np.array(weights[: len(asked)], np.float32)
    if len(counts) < len(asked) or not counts.any():
        counts = np.ones(len(asked), np.float32)
    products = np.zeros((len(rows), len(asked)), np.float32)
    read = rows < len(vectors)
    products[read] = dot_products(vectors[rows[read]], asked).clip(min=0)
    return products * (counts / max(float(counts.sum()), 1e-9))


def _window(columns: NDArray[np.float32], tokens: int) -> tuple[int, int]:
    """Finds the first and last + 1 token of the best window, moved so that what it is chosen for is in its middle."""
    count = len(columns)
    if count <= tokens:
        return 0, count
    best, reach = columns, 1
    while reach < tokens:  # best[i] is the maximum of `reach` rows from i on
        step = min(reach, tokens - reach)
        best, reach = np.maximum(best[:-step], best[step:]), reach + step
    start = int(best.sum(axis=1).argmax())
    reasons = start + np.flatnonzero(_shares(columns[start : start + tokens]))
    if len(reasons):
        start = int(reasons[0] + reasons[-1] + 1 - tokens) // 2
    start = min(max(0, start), count - tokens)
    return start, start + tokens


def _shares(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Computes what each token adds to the window's score; of equal ones each adds it all."""
    best = window.max(axis=0)
    shares: NDArray[np.float32] = np.where(window == best, best, 0).sum(axis=1)
    return shares


def _matching(window: NDArray[np.float32]) -> NDArray[np.int64]:
    shares = _shares(window)
    return np.flatnonzero((shares > 0) & (shares >= _MARKED * shares.max()))


def _cut(text: str, start: int, end: int, matches: Sequence[Sequence[int]]) -> Snippet:
    """Cuts the window with its words whole; matches that touch become one."""
    start, end = _whole(text, start, end)
    end = min(end, start + _CHARACTERS)
    joined: list[tuple[int, int]] = []
    for first, last in (_whole(text, *match) for match in matches):
        first, last = max(first, start), min(last, end)
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        elif first < last:
            joined.append((first, last))
    return Snippet(text[start:end], start, end, tuple(joined))


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """Extends a span to whole words, in scripts that have letter case: they put spaces between words.

    Example:
        >>> _whole("a hedgehog ran", 2, 6)
        (2, 10)
    """
    while start < end and text[start].isspace():
        start += 1
    while 0 < start < len(text) and _cased(text[start]) and _cased(text[start - 1]):
        start -= 1
    while 0 < end < len(text) and _cased(text[end - 1]) and _cased(text[end]):
        end += 1
    return start, end


def _cased(character: str) -> bool:
    return character.lower() != character.upper()
