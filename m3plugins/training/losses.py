"""The joint loss of M3: InfoNCE on every head and on their ensemble, with self-distillation.

Formulas: Chen et al., "M3-Embedding" (arXiv 2402.03216), sections 3.3 and 3.4; weights: FlagEmbedding 1.4. In the
shapes below Q counts queries, P passages, G the passages in a query's group (its positive first, then its hard
negatives), L and T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training.representations import Representations, TokenVectors, TokenWeights

TeacherLogits = Callable[[Mapping[str, Tensor]], "Tensor | None"]
"""From the student's logits (Q, C), by head and for the `ensemble`, to the teacher's, or None for no opinion."""


@dataclass(frozen=True, kw_only=True)
class PerHead:
    """One number for each head and for the ensemble of the heads."""

    dense: float = 1.0
    sparse: float = 1.0
    multi_vector: float = 1.0
    ensemble: float = 1.0

    def __getitem__(self, name: str) -> float:
        """Return the number of the head called `name`."""
        return float(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Settings of `m3_loss`; the defaults are the reference's.

    Attributes:
        special_ids: Token ids that never carry a lexical weight: cls, eos, pad and unk.
        temperature: τ, one for all or one per head.
        score_weights: Weights of the heads in the ensemble score; `ensemble` is not read.
        loss_weights: Weights of the contrastive losses.
        distillation_weights: Weights of the self-distillation losses; `ensemble` is not read.
        teacher_weight: Weight of the external teacher's loss, added to every InfoNCE.
        in_batch_negatives: Compare each query with all passages of the batch instead of its own group only.
        false_negative_ratio: A passage whose ensemble score is above this share of the positive's is no negative
            (0.95 in NV-Retriever, arXiv 2407.15831); None keeps all.
        max_elements: Most token similarities that MaxSim holds at a time.

    Raises:
        ValueError: A temperature is not positive, a weight is negative, or the ratio is not above 0 and at most 1.
    """

    special_ids: tuple[int, ...]
    temperature: float | PerHead = 0.02
    score_weights: PerHead = PerHead(sparse=0.3)
    loss_weights: PerHead = PerHead(sparse=0.1)
    distillation_weights: PerHead = PerHead(sparse=0.1)
    teacher_weight: float = 1.0
    in_batch_negatives: bool = True
    false_negative_ratio: float | None = None
    max_elements: int = 2**24

    def __post_init__(self) -> None:
        if not all(0 < self.temperature_of(head.name) < math.inf for head in fields(PerHead)):
            msg = f"temperature must be positive, got {self.temperature}"
            raise ValueError(msg)
        for name in ("score_weights", "loss_weights", "distillation_weights"):
            if not all(0 <= getattr(self, name)[head.name] < math.inf for head in fields(PerHead)):
                msg = f"{name} must be at least 0, got {getattr(self, name)}"
                raise ValueError(msg)
        if self.false_negative_ratio is not None and not 0 < self.false_negative_ratio <= 1:
            msg = f"false_negative_ratio must be above 0 and at most 1, got {self.false_negative_ratio}"
            raise ValueError(msg)

    def temperature_of(self, name: str) -> float:
        """Return τ of the head called `name`."""
        return self.temperature[name] if isinstance(self.temperature, PerHead) else self.temperature


@dataclass(frozen=True)
class M3Loss:
    """The scalar `total` to differentiate, and the unweighted `terms` it is made of, detached, for logging."""

    total: Tensor
    terms: dict[str, Tensor]


def similarity(queries: Tensor, passages: Tensor) -> Tensor:
    """Inner products of (Q, H) and (P, H): (Q, P), float32 or better even under autocast.

    In half precision a score would be off by a tenth of a logit at τ = 0.02.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        return queries.to(dtype) @ passages.to(dtype).mT


def lexical_vectors(queries: TokenWeights, passages: TokenWeights, special_ids: tuple[int, ...]) -> list[Tensor]:
    """Largest weight of each token id, over the U ids of this batch instead of the whole vocabulary.

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
    """Late interaction: the best passage token for each query token, averaged over the query's tokens.

    Blocks of passages bound the memory. Padding is masked with -inf, so that a negative best similarity counts.

    Args:
        queries: Vectors (Q, L, d), mask (Q, L).
        passages: Vectors (P, T, d), mask (P, T).
        max_elements: Most similarities held at a time (at least those of one passage).

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
    """The largest inner product of each of N vectors (N, d) with each passage's tokens (P, T, d): (N, P).

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


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of -Σ softmax(teacher)·log_softmax(student), both (Q, C) logits.

    This is the KL divergence plus the entropy of the teacher, which is detached. A candidate at -inf in either is
    left out of both.
    """
    excluded = student.isneginf() | teacher.isneginf()
    log_probabilities = student.masked_fill(excluded, float("-inf")).log_softmax(-1).masked_fill(excluded, 0.0)
    target = teacher.detach().masked_fill(excluded, float("-inf")).softmax(-1)
    return -(target * log_probabilities).sum(-1).mean()


def live_ensemble(logits: Mapping[str, Tensor]) -> Tensor | None:
    """M3's own teacher: the ensemble of the student's heads; a single head has none."""
    return logits.get("ensemble")


def m3_scores(queries: Representations, passages: Representations, options: LossOptions) -> dict[str, Tensor]:
    """Scores (Q, P) of each head and, of two heads or more, of their weighted sum, the `ensemble`.

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
    """The scores divided by their temperatures; `temperatures`, scalars by head, go before those of the options."""
    learned = temperatures or {}
    return {name: score / learned.get(name, options.temperature_of(name)) for name, score in scores.items()}


def m3_loss(
    queries: Representations,
    passages: Representations,
    options: LossOptions,
    *,
    groups: Tensor | None = None,
    own_passages_only: Tensor | None = None,
    absent: Tensor | None = None,
    false_negatives: Tensor | None = None,
    teacher_scores: Tensor | None = None,
    teacher: TeacherLogits | None = None,
    temperatures: Mapping[str, Tensor] | None = None,
) -> M3Loss:
    """Contrastive loss of all heads together: L, or with self-distillation (L + L')/2.

    With three heads: `s_ens = s_d + 0.3·s_l + s_m`, `L = (L_d + 0.1·L_l + L_m + L_ens)/4` and
    `L' = (KD_d + 0.1·KD_l + KD_m)/3`, where KD_h distils the teacher into head h. With two heads the ensemble is of
    those two and the divisors are 3 and 2. A single head has no ensemble: `L = w_h·L_h`.

    Args:
        queries: Q queries.
        passages: P passages.
        options: Temperatures, weights and the choice of negatives.
        groups: (Q, G) int64, which passages are a query's own, its positive first; -1 is none. By default the passages
            are grouped by query, G = P/Q.
        own_passages_only: (Q,), nonzero where a query is compared with its group only, whatever
            `options.in_batch_negatives` says.
        absent: (P,), nonzero where a passage is no candidate of any query: padding, or a text that comes again.
        false_negatives: (Q, P), nonzero where a passage is no negative of the query in InfoNCE; its own positive always
            stays. What a teacher says of it counts.
        teacher_scores: (Q, G) logits of an external teacher, such as a cross-encoder. Every term gets its
            `distillation` over the query's group beside InfoNCE (`kl_div` in the reference).
        teacher: Whom L' distils, `live_ensemble` in the paper; None, and a teacher that returns None, is no L'.
        temperatures: Learned τ, scalars by head, in place of those of the options.

    Raises:
        ValueError: The sides differ in their heads or have none, P is no multiple of Q, or a shape is wrong.
    """
    scores = m3_scores(queries, passages, options)
    decisive = scores.get("ensemble", next(iter(scores.values())))
    groups = _groups(decisive, groups)
    positives = groups[:, :1]

    outside = torch.full_like(decisive, not options.in_batch_negatives, dtype=torch.bool)
    if own_passages_only is not None:
        _check_shape("own_passages_only", own_passages_only, outside.shape[:1])
        outside = outside | own_passages_only.bool()[:, None]
    outside = in_columns(groups, torch.zeros_like(groups, dtype=torch.bool), outside)
    if absent is not None:
        _check_shape("absent", absent, outside.shape[1:])
        outside = outside | absent.bool()
    logits = {
        name: logit.masked_fill(outside, float("-inf"))
        for name, logit in m3_logits(scores, options, temperatures).items()
    }

    excluded = torch.zeros_like(outside)
    if false_negatives is not None:
        _check_shape("false_negatives", false_negatives, excluded.shape)
        excluded = excluded | false_negatives.bool()
    if options.false_negative_ratio is not None:
        positive = decisive.detach().gather(1, positives)
        excluded = excluded | (decisive.detach() > positive - (1 - options.false_negative_ratio) * positive.abs())
    excluded = excluded.scatter(1, positives, False)

    terms = {
        name: F.cross_entropy(logit.masked_fill(excluded, float("-inf")), positives[:, 0])
        for name, logit in logits.items()
    }
    if teacher_scores is not None:
        _check_shape("teacher_scores", teacher_scores, groups.shape)
        given = teacher_scores.masked_fill(groups < 0, float("-inf"))
        for name, logit in logits.items():
            own = logit.gather(1, groups.clamp(min=0))
            terms[name] = terms[name] + options.teacher_weight * distillation(own, given)
    total = torch.stack([options.loss_weights[name] * term for name, term in terms.items()]).mean()

    target = teacher(logits) if teacher is not None else None
    if target is not None:
        _check_shape("the teacher's logits", target, outside.shape)
        distilled = {head: distillation(logits[head], target) for head in queries.heads}
        weighted = [options.distillation_weights[head] * term for head, term in distilled.items()]
        total = (total + torch.stack(weighted).mean()) / 2
        terms |= {f"{head}_distillation": term for head, term in distilled.items()}
    return M3Loss(total, {name: term.detach() for name, term in terms.items()})


def in_columns(groups: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """The rows (Q, P) with the values (Q, G) of each query's own passages in the columns that `groups` (Q, G) names."""
    spare = rows.shape[1]  # a column for -1
    return F.pad(rows, (0, 1)).scatter(1, groups.masked_fill(groups < 0, spare), values)[:, :spare]


def _groups(scores: Tensor, given: Tensor | None) -> Tensor:
    """Column numbers (Q, G) of each query's own passages in scores (Q, P)."""
    queries, passages = scores.shape
    if given is not None:
        if given.dim() != 2 or len(given) != queries or not given.shape[1]:
            msg = f"groups must have a row of passages for each of the {queries} queries, got {tuple(given.shape)}"
            raise ValueError(msg)
        return given
    if not queries or not passages or passages % queries:
        msg = f"passages must be a positive multiple of queries, got {passages} passages for {queries} queries"
        raise ValueError(msg)
    return torch.arange(passages, device=scores.device).view(queries, -1)


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        msg = f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}"
        raise ValueError(msg)
