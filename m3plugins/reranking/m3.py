"""Reranking with the three heads of M3: any texts, no index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.memo import EmbeddingMemo
from m3plugins.fusion import HybridWeights, weighted_sum
from m3plugins.fusion.weighted import check_weights
from m3plugins.scoring.heads import HeadScores, head_scores


class M3Reranker:
    """Scores texts by the weighted sum of the heads' exact scores.

    The score is raw: its range is that of the weights and of the sparse head, which has no upper
    bound; with the default weights it is mostly within [0, 3].

    Args:
        encoder: The encoder of the query and the texts, or its `memo`, which remembers them.
        weights: Weight of each head; one of weight 0 is not computed.
    """

    def __init__(self, encoder: M3Encoder | EmbeddingMemo, *, weights: HybridWeights | None = None) -> None:
        self.encoder = encoder
        self.weights = check_weights(weights)

    def score(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Weighted scores, shape (n,), float32."""
        if not texts:
            return np.empty(0, np.float32)
        heads = self.weights.heads
        documents = self.encoder.encode_documents(texts, heads=heads)
        scores = head_scores(self.encoder.encode_queries([query], heads=heads), documents)
        return np.array([weighted_sum(score, self.weights) for score in scores], np.float32)

    def score_pairs(self, pairs: Iterable[tuple[str, str]]) -> list[HeadScores]:
        """The three exact scores of each (query, text) pair; each distinct text is encoded once."""
        pairs = list(pairs)
        if not pairs:
            return []
        queries = list(dict.fromkeys(query for query, _ in pairs))
        texts = list(dict.fromkeys(text for _, text in pairs))
        text_rows = {text: row for row, text in enumerate(texts)}
        embedded_queries = self.encoder.encode_queries(queries)
        embedded_texts = self.encoder.encode_documents(texts)

        scores: dict[tuple[str, str], HeadScores] = {}
        for row, query in enumerate(queries):
            partners = list(dict.fromkeys(text for other, text in pairs if other == query))
            documents = embedded_texts.take([text_rows[text] for text in partners])
            for text, score in zip(partners, head_scores(embedded_queries[row], documents), strict=True):
                scores[query, text] = score
        return [scores[pair[0], pair[1]] for pair in pairs]
