"""The joint loss of M3: InfoNCE on every head and on their ensemble, with self-distillation.

Formulas: Chen et al., "M3-Embedding" (arXiv 2402.03216), sections 3.3 and 3.4; weights: FlagEmbedding 1.4. In the
shapes below Q counts queries, P passages, G the passages in a query's group (its positive first, then its hard
negatives).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training.loss.options import LossOptions
from m3plugins.training.loss.representations import Representations
from m3plugins.training.loss.scores import m3_logits, m3_scores

TeacherLogits = Callable[[Mapping[str, Tensor]], "Tensor | None"]
"""A function from the student's logits (Q, C), by head and for the `ensemble`, to the teacher's, or None."""


@dataclass(frozen=True)
class M3Loss:
    """The scalar `total` to differentiate, and the unweighted `terms` it is made of, detached, for logging."""

    total: Tensor
    terms: dict[str, Tensor]


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
    """Returns M3's own teacher, the logits of the student's ensemble; a single head has none."""
    return logits.get("ensemble")


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
        groups: (Q, G) int64, numbers of a query's own passages, its positive first; -1 is none. By default the
            passages are grouped by query, G = P/Q.
        own_passages_only: (Q,), nonzero where a query is compared with its group only, whatever
            `options.in_batch_negatives` says.
        absent: (P,), nonzero where a passage is no candidate of any query: padding, or a repeated text.
        false_negatives: (Q, P), nonzero where a passage is no negative of the query in InfoNCE; its own positive always
            stays. Teachers still score it.
        teacher_scores: (Q, G) logits of an external teacher, such as a cross-encoder. Every term gets its
            `distillation` over the query's group beside InfoNCE (`kl_div` in the reference).
        teacher: Teacher that L' distils, `live_ensemble` in the paper; without one, or if it returns None, no L'.
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
    """Returns rows (Q, P) with the values (Q, G) of each query's own passages in the columns that `groups` names."""
    spare = rows.shape[1]  # a column for -1
    return F.pad(rows, (0, 1)).scatter(1, groups.masked_fill(groups < 0, spare), values)[:, :spare]


def _groups(scores: Tensor, given: Tensor | None) -> Tensor:
    """Returns the column numbers (Q, G) of each query's own passages in scores (Q, P)."""
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
