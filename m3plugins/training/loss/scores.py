"""Scores of queries with passages, differentiable, by each head and by the ensemble of the heads.

In the shapes below Q counts queries, P passages, L and T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training.loss.options import LossOptions
from m3plugins.training.loss.representations import Representations, TokenVectors, TokenWeights


def similarity(queries: Tensor, passages: Tensor) -> Tensor:
    """Returns the inner products of (Q, H) and (P, H): (Q, P), float32 or better even under autocast.

    In half precision a score would be off by a tenth of a logit at τ = 0.02.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        return queries.to(dtype) @ passages.to(dtype).mT


def lexical_vectors(queries: TokenWeights, passages: TokenWeights, special_ids: tuple[int, ...]) -> list[Tensor]:
    """Finds the largest weight of each token id, over the U ids of this batch instead of the whole vocabulary.

    Returns:
        Vectors of the queries (Q, U) and of the passages (P, U), non-negative; special ids weigh 0.
    """
    sides = (queries, passages)
    ids, slots = torch.unique(torch.cat([side.input_ids.flatten() for side in sides]), return_inverse=True)
    special = torch.tensor(special_ids, dtype=ids.dtype, device=ids.device)
    vectors = []
    for side, slot in zip(sides, torch.split(slots, [side.input_ids.numel() for side in sides]), strict=True):
        weights = side.weights.masked_fill(~side.mask.bool() | torch.isin(side.input_ids, special), 0.0)
        empty = weights.new_zeros(len(weights), len(ids))
        vectors.append(empty.scatter_reduce(1, slot.view_as(side.input_ids), weights, "amax"))
    return vectors


def max_sim(queries: TokenVectors, passages: TokenVectors, *, max_elements: int = 2**24) -> Tensor:
    """Computes late interaction: the best passage token for each query token, averaged over the query's tokens.

    Blocks of passages bound the memory. Padding is masked with -inf, so that a negative best similarity counts.

    Args:
        queries: Vectors (Q, L, d), mask (Q, L).
        passages: Vectors (P, T, d), mask (P, T).
        max_elements: Maximum number of similarities held at a time (at least those of one passage).

    Returns:
        (Q, P) in float32 or better, within [-1, 1]; 0 where the query or the passage has no token.
    """
    mask = queries.mask.bool()
    dtype = torch.promote_types(queries.vectors.dtype, torch.float32)
    per_token: Tensor = _BestSimilarity.apply(  # type: ignore[no-untyped-call]
        queries.vectors[mask].to(dtype), passages.vectors.to(dtype), passages.mask.bool(), max_elements
    )
    query_of_token = mask.nonzero()[:, 0]
    sums = per_token.new_zeros(len(mask), per_token.shape[1]).index_add(0, query_of_token, per_token)
    return sums / mask.sum(1, keepdim=True).clamp(min=1)


class _BestSimilarity(torch.autograd.Function):
    """Largest inner product of each of N vectors (N, d) with each passage's tokens (P, T, d): (N, P).

    The gradient of a maximum reaches its winner alone, so the backward pass sums P vectors for each of the N instead
    of multiplying with a matrix of N × P·T that is all but zeros.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, passages: Tensor, mask: Tensor, max_elements: int) -> Tensor:
        size = max(1, max_elements // max(1, len(vectors) * passages.shape[1]))
        values, winners = [], []
        with torch.autocast(vectors.device.type, enabled=False):
            for tokens, present in zip(torch.split(passages, size), torch.split(mask, size), strict=True):
                similarities = (vectors @ tokens.flatten(0, 1).mT).view(-1, *present.shape)
                best = similarities.masked_fill_(~present, float("-inf")).max(-1)
                values.append(best.values)
                winners.append(best.indices)
        empty = ~mask.any(-1)
        ctx.save_for_backward(vectors, passages, torch.cat(winners, 1), empty)
        return torch.cat(values, 1).masked_fill(empty, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        vectors, passages, winners, empty = ctx.saved_tensors
        count, length, width = passages.shape
        grad = grads[0].to(vectors.dtype).masked_fill(empty, 0.0).contiguous()
        winners = winners + torch.arange(count, device=winners.device) * length
        of_vectors = of_passages = None
        if ctx.needs_input_grad[0]:
            tokens = passages.reshape(-1, width)
            of_vectors = F.embedding_bag(winners, tokens, per_sample_weights=grad, mode="sum")
        if ctx.needs_input_grad[1]:
            by_token = winners.flatten().argsort()
            starts = torch.searchsorted(winners.flatten()[by_token], torch.arange(count * length, device=grad.device))
            of_passages = F.embedding_bag(
                by_token // count, vectors, starts, per_sample_weights=grad.flatten()[by_token], mode="sum"
            ).view_as(passages)
        return of_vectors, of_passages, None, None


def m3_scores(queries: Representations, passages: Representations, options: LossOptions) -> dict[str, Tensor]:
    """Returns scores (Q, P) of each head and, of two heads or more, of their weighted sum, the `ensemble`.

    Raises:
        ValueError: The sides differ in their heads or have none.
    """
    if queries.heads != passages.heads or not queries.heads:
        msg = f"queries and passages need the same heads, at least one, got {queries.heads} and {passages.heads}"
        raise ValueError(msg)
    scores = {}
    if queries.dense is not None and passages.dense is not None:
        scores["dense"] = similarity(queries.dense, passages.dense)
    if queries.sparse is not None and passages.sparse is not None:
        scores["sparse"] = similarity(*lexical_vectors(queries.sparse, passages.sparse, options.special_ids))
    if queries.multi_vector is not None and passages.multi_vector is not None:
        tokens = (queries.multi_vector, passages.multi_vector)
        scores["multi_vector"] = max_sim(*tokens, max_elements=options.max_elements)
    if len(scores) > 1:
        scores["ensemble"] = torch.stack([options.score_weights[head] * scores[head] for head in scores]).sum(0)
    return scores


def m3_logits(
    scores: Mapping[str, Tensor], options: LossOptions, temperatures: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Divides scores by their temperatures; `temperatures`, scalars by head, take precedence over the options'."""
    learned = temperatures or {}
    return {name: score / learned.get(name, options.temperature_of(name)) for name, score in scores.items()}
