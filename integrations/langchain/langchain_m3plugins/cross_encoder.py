"""Scores of text pairs, for LangChain's own rerankers."""

from __future__ import annotations

from langchain_core.cross_encoders import BaseCrossEncoder

from langchain_m3plugins.fields import RerankerFields
from m3plugins.fusion import weighted_sum
from m3plugins.reranking import M3Reranker


class M3CrossEncoder(RerankerFields, BaseCrossEncoder):
    """Scores (query, text) pairs by the three heads of an M3 model, or by any reranker of m3plugins.

    Goes wherever LangChain takes a cross-encoder, such as `CrossEncoderReranker(model=M3CrossEncoder())`.
    """

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Scores the pairs, in order; each distinct text is encoded once."""
        if isinstance(self.reranker, M3Reranker):
            weights = self.reranker.weights
            return [weighted_sum(scores, weights) for scores in self.reranker.score_pairs(text_pairs)]
        scores = [0.0] * len(text_pairs)
        for query in dict.fromkeys(query for query, _ in text_pairs):
            rows = [row for row, pair in enumerate(text_pairs) if pair[0] == query]
            found = self.reranker.score(query, [text_pairs[row][1] for row in rows]).tolist()
            for row, score in zip(rows, found, strict=True):
                scores[row] = score
        return scores
