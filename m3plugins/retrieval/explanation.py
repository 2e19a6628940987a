"""Explanations of a score, down to the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import HEADS, M3Output
from m3plugins.encoding.shortening import Shortener
from m3plugins.encoding.tokenizing import Layout
from m3plugins.fusion import HybridWeights
from m3plugins.fusion.weighted import check_weights
from m3plugins.indexing.index import HybridIndex
from m3plugins.retrieval.hit import Hit
from m3plugins.scoring.heads import SIGNALS, Signal, check_query
from m3plugins.scoring.products import dot_products


@dataclass(frozen=True)
class LexicalMatch:
    """A word piece of both query and document.

    Attributes:
        token: The word piece.
        id: Its token id.
        query: Its weight in the query.
        document: Its weight in the document.
        contribution: The product of the weights, what it adds to the sparse score.
    """

    token: str
    id: int
    query: float
    document: float
    contribution: float


@dataclass(frozen=True)
class TokenMatch:
    """A token of the query, and the one of the document whose vector is nearest.

    Attributes:
        query: The query's word piece.
        document: The document's word piece.
        query_row: Which of the query's token vectors it is.
        document_row: Which of the document's token vectors it is.
        similarity: The dot product of the two.
        contribution: What it adds to the multi-vector score, a mean: similarity / number of the query's vectors.
    """

    query: str
    document: str
    query_row: int
    document_row: int
    similarity: float
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """What a hit's scores are made of.

    Attributes:
        query: The question.
        hit: The document with its scores.
        contributions: What each signal that was scored adds to `weighted`: weight × score.
        sparse: The word pieces in both; they add up to the sparse score. What adds most comes first.
        multi_vector: A match of each token of the query, in its order; they add up to the multi-vector score.
    """

    query: str
    hit: Hit
    contributions: Mapping[Signal, float]
    sparse: tuple[LexicalMatch, ...] = ()
    multi_vector: tuple[TokenMatch, ...] = ()

    @property
    def weighted(self) -> float:
        """The sum of the contributions: `hit.score`, unless that is of reciprocal ranks or of a reranker."""
        return sum(self.contributions.values())


def explain(
    query: str,
    hit: Hit,
    *,
    index: HybridIndex,
    weights: HybridWeights | None = None,
    embedding: M3Output | None = None,
) -> Explanation:
    """Takes a hit's scores apart, by the vectors that are stored.

    Args:
        query: That the hit was found with.
        hit: As a `HybridRetriever` found it.
        index: Where it was found.
        weights: Those of the search; None is `HybridWeights()`.
        embedding: Of the query, an output of length 1; None encodes it, once for all its hits.

    Returns:
        Contributions of the signals, and matches of the heads, that the hit has a score of.

    Raises:
        ValueError: If the hit has no score of M3's heads, its document is no longer in the index as it was found,
            or token vectors are not those of the text.
    """
    encoder = index.encoder
    scored = [head for head in HEADS if getattr(hit.scores, head) is not None]
    if not scored:
        msg = f"hit must have a score of {', '.join(HEADS)}, {hit.id!r} has none; take one that a search found"
        raise ValueError(msg)
    asked = (encoder.memo.encode_queries([query]) if embedding is None else embedding).select(scored)
    check_query(asked)
    stored = index.embeddings([hit.id], scored).get(hit.id)
    if stored is None or [document.content for document in index.get([hit.id])] != [hit.document.content]:
        msg = f"document {hit.id!r} was deleted or changed since it was found; search again"
        raise ValueError(msg)
    weights = check_weights(weights)
    scores = {signal: getattr(hit.scores, signal) for signal in SIGNALS}
    return Explanation(
        query=query,
        hit=hit,
        contributions={
            signal: getattr(weights, signal) * score for signal, score in scores.items() if score is not None
        },
        sparse=_lexical_matches(asked, stored, encoder),
        multi_vector=_token_matches(query, asked, hit.document.content, stored, encoder),
    )


def _lexical_matches(query: M3Output, document: M3Output, encoder: M3Encoder) -> tuple[LexicalMatch, ...]:
    if query.sparse is None or document.sparse is None:
        return ()
    left, right = query.sparse[0].to_dict(), document.sparse[0].to_dict()
    shared = sorted(left.keys() & right.keys(), key=lambda i: (-left[i] * right[i], i))
    return tuple(LexicalMatch(encoder.decode_token(i), i, left[i], right[i], left[i] * right[i]) for i in shared)


def _token_matches(
    query_text: str, query: M3Output, document_text: str, document: M3Output, encoder: M3Encoder
) -> tuple[TokenMatch, ...]:
    if query.multi_vector is None or document.multi_vector is None:
        return ()
    left = _word_pieces("query", query_text, query, encoder.query_layout, encoder)
    right = _word_pieces("document", document_text, document, encoder.document_layout, encoder)
    products = dot_products(document.multi_vector[0], query.multi_vector[0])
    nearest = products.argmax(axis=0).tolist()
    similarities = products.max(axis=0).tolist()
    return tuple(
        TokenMatch(piece, right[j], i, j, similarity, similarity / len(left))
        for i, (piece, j, similarity) in enumerate(zip(left, nearest, similarities, strict=True))
    )


def _word_pieces(name: str, text: str, output: M3Output, layout: Layout, encoder: M3Encoder) -> list[str]:
    """The word pieces that the token vectors of a text stand for: all that was read, less the CLS tokens.

    Args:
        name: What to call the text in an error.
        text: What was encoded.
        output: Its embeddings, which say where it was cut.
        layout: How it was laid out; its prompt was read too.
        encoder: That made them.
    """
    read, _ = Shortener(encoder.tokenizer).shorten(layout.prompt + text, int(output.token_counts[0]))
    _, *pieces, eos = encoder.tokenizer.encode(read).tokens
    if output.truncated[0]:
        pieces = pieces[: replace(layout, max_length=int(output.token_counts[0])).text_tokens]
    vectors = 0 if output.multi_vector is None else len(output.multi_vector.vectors)
    if len(pieces) + 1 != vectors:
        msg = (
            f"the {name} must have one vector a token, got {vectors} for {len(pieces) + 1} tokens; it was not the "
            "index's encoder that made them of this text"
        )
        raise ValueError(msg)
    return [*pieces, eos]
