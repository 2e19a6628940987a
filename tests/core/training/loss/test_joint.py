"""The joint M3 loss: parity with FlagEmbedding, masking, and what each option changes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m3plugins.training import PerHead, Representations, TokenVectors, TokenWeights, m3_loss
from m3plugins.training.loss.joint import distillation, live_ensemble
from m3plugins.training.loss.scores import max_sim
from tests.core.training.loss.sides import CLS, EOS, OPTIONS, PAD, UNK, leaves, representations, token_mask

# --- parity with the reference ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Any:
    """FlagEmbedding's model on a tiny random XLM-R, in training mode, without dropout.

    The reference pads token vectors with 0, which wins over a negative similarity. The large bias makes all
    similarities positive, so that here both definitions agree.
    """
    from FlagEmbedding.finetune.embedder.encoder_only.m3 import modeling
    from transformers import XLMRobertaConfig, XLMRobertaModel

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    colbert, sparse = torch.nn.Linear(16, 16), torch.nn.Linear(16, 1)
    torch.nn.init.constant_(colbert.bias, 3.0)
    torch.nn.init.constant_(sparse.bias, 0.5)
    tokenizer = SimpleNamespace(
        cls_token_id=CLS, pad_token_id=PAD, eos_token_id=EOS, unk_token_id=UNK, padding_side="right"
    )
    model = modeling.EncoderOnlyEmbedderM3Model(
        {"model": XLMRobertaModel(config), "colbert_linear": colbert, "sparse_linear": sparse},
        tokenizer=tokenizer, temperature=0.02, kd_loss_type="kl_div", normalize_embeddings=True,
    )  # fmt: skip
    return model.double().train()


def features(lengths: list[int], *, seed: int) -> dict[str, Tensor]:
    mask = token_mask(lengths, max(lengths))
    ids = torch.randint(4, 60, mask.shape, generator=torch.Generator().manual_seed(seed)) * mask + PAD * ~mask
    ids[:, 0] = CLS
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = EOS
    ids[0, 1] = UNK
    return {"input_ids": ids, "attention_mask": mask.long()}


QUERY_FEATURES = features([5, 8, 6], seed=3)
PASSAGE_FEATURES = features([12, 9, 15, 7, 11, 15, 6, 10, 13], seed=4)


def encode(model: Any, batch: dict[str, Tensor]) -> Representations:
    """Our representations from the weights of the reference's model."""
    states = model.model(**batch).last_hidden_state
    return Representations(
        dense=F.normalize(states[:, 0], dim=-1),
        sparse=TokenWeights(
            model.sparse_linear(states).squeeze(-1).relu(), batch["input_ids"], batch["attention_mask"]
        ),
        multi_vector=TokenVectors(
            F.normalize(model.colbert_linear(states[:, 1:]), dim=-1), batch["attention_mask"][:, 1:]
        ),
    )


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    parameters = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    return list(torch.autograd.grad(loss, parameters))


def configure(model: Any, *, self_distillation: bool) -> Any:
    model.use_self_distill, model.step, model.self_distill_start_step = self_distillation, 0, -1
    return model


@pytest.mark.parity
@pytest.mark.parametrize("self_distillation", [False, True])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_loss_and_gradients_equal_the_reference(reference: Any, self_distillation: bool, with_teacher: bool) -> None:
    model = configure(reference, self_distillation=self_distillation)
    teacher = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2
    theirs = model(
        QUERY_FEATURES, PASSAGE_FEATURES, teacher_scores=teacher.flatten().tolist() if with_teacher else None
    ).loss
    ours = m3_loss(
        encode(model, QUERY_FEATURES),
        encode(model, PASSAGE_FEATURES),
        OPTIONS,
        teacher_scores=teacher if with_teacher else None,
        teacher=live_ensemble if self_distillation else None,
    ).total
    # the reference turns the teacher's list into float32
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if with_teacher else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(gradients(model, ours), gradients(model, theirs), **tolerance)


@pytest.mark.parity
def test_own_group_loss_equals_the_reference_where_that_works(reference: Any) -> None:
    """Without in-batch negatives the reference slices its ensemble scores twice and loses that term."""
    model = configure(reference, self_distillation=False)
    theirs = model(QUERY_FEATURES, PASSAGE_FEATURES, no_in_batch_neg_flag=True).loss
    options = replace(OPTIONS, in_batch_negatives=False, loss_weights=PerHead(sparse=0.1, ensemble=0.0))
    ours = m3_loss(encode(model, QUERY_FEATURES), encode(model, PASSAGE_FEATURES), options).total
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# --- negatives and teachers ------------------------------------------------------------------------------------------


def test_own_group_only_ignores_the_other_queries_passages(queries: Representations, passages: Representations) -> None:
    options = replace(OPTIONS, in_batch_negatives=False)
    together = m3_loss(queries, passages, options, teacher=live_ensemble).total
    dense = queries.dense @ passages.dense.T / 0.02
    expected = torch.stack([dense[i, 2 * i] - dense[i, 2 * i : 2 * i + 2].logsumexp(0) for i in range(3)])
    terms = m3_loss(Representations(dense=queries.dense), Representations(dense=passages.dense), options).terms
    torch.testing.assert_close(terms["dense"], -expected.mean())
    assert together.isfinite()


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_false_negatives_do_not_count(
    queries: Representations, passages: Representations, in_batch_negatives: bool
) -> None:
    options = replace(OPTIONS, in_batch_negatives=in_batch_negatives)
    masked = torch.zeros(3, 6, dtype=torch.bool)
    masked[0, [0, 1, 4]] = True  # 0 is the query's own positive, which stays
    dense = queries.dense @ passages.dense.T / 0.02
    kept = {True: [[0, 2, 3, 5], range(6), range(6)], False: [[0], [2, 3], [4, 5]]}[in_batch_negatives]
    expected = torch.stack([dense[i, 2 * i] - dense[i, list(kept[i])].logsumexp(0) for i in range(3)])
    loss = m3_loss(queries, passages, options, false_negatives=masked, teacher=live_ensemble)
    torch.testing.assert_close(loss.terms["dense"], -expected.mean())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.total, leaves(queries, passages)))


def test_a_false_negative_gets_its_gradient_from_teachers_alone(
    queries: Representations, passages: Representations
) -> None:
    masked = torch.zeros(3, 6)
    masked[:, 1] = 1
    for teacher, reached in ((None, False), (live_ensemble, True)):
        passages.dense.grad = None
        m3_loss(queries, passages, OPTIONS, false_negatives=masked, teacher=teacher).total.backward()
        assert (passages.dense.grad[1].abs().sum() > 0) == reached
        assert passages.dense.grad[3].abs().sum() > 0


def test_an_external_teacher_is_heard_on_its_false_negatives(
    queries: Representations, passages: Representations
) -> None:
    masked, scores = torch.zeros(3, 6), torch.randn(3, 2, dtype=torch.float64)
    masked[:, [1, 3, 5]] = 1  # the second passage of each group
    plain, taught, unmasked = (
        m3_loss(queries, passages, OPTIONS, false_negatives=mask, teacher_scores=given).terms["dense"]
        for mask, given in ((masked, None), (masked, scores), (None, scores))
    )
    alone = m3_loss(queries, passages, OPTIONS).terms["dense"]
    torch.testing.assert_close(taught - plain, unmasked - alone)


def test_what_is_absent_is_no_candidate_of_anyone(queries: Representations, passages: Representations) -> None:
    """As if the last two passages were not there, for the teacher too."""
    absent = torch.tensor([0, 0, 0, 0, 1, 1])
    two, four = first(queries, 2), first(passages, 4)
    groups = torch.tensor([[0, 1], [2, 3]])
    found = m3_loss(two, passages, OPTIONS, groups=groups, absent=absent, teacher=live_ensemble)
    torch.testing.assert_close(found.total, m3_loss(two, four, OPTIONS, teacher=live_ensemble).total)


def first(side: Representations, count: int) -> Representations:
    """Of each head the first rows."""
    sparse, late = side.sparse, side.multi_vector
    return Representations(
        dense=side.dense[:count],
        sparse=TokenWeights(sparse.weights[:count], sparse.input_ids[:count], sparse.mask[:count]),
        multi_vector=TokenVectors(late.vectors[:count], late.mask[:count]),
    )


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_groups_may_share_passages_and_differ_in_size(
    queries: Representations, passages: Representations, in_batch_negatives: bool
) -> None:
    """The third query has its positive alone; the first two share a negative."""
    options = replace(OPTIONS, in_batch_negatives=in_batch_negatives)
    groups = torch.tensor([[0, 3], [2, 3], [4, -1]])
    scores = torch.tensor([[1.0, 0.0], [2.0, 1.0], [5.0, -math.inf]], dtype=torch.float64)
    dense = queries.dense @ passages.dense.T / 0.02
    own = [[0, 3], [2, 3], [4]]
    kept = own if not in_batch_negatives else [range(6)] * 3
    contrastive = torch.stack([dense[i, list(kept[i])].logsumexp(0) - dense[i, own[i][0]] for i in range(3)]).mean()
    taught = torch.stack(
        [-(scores[i, : len(own[i])].softmax(0) * dense[i, own[i]].log_softmax(0)).sum() for i in range(3)]
    ).mean()
    loss = m3_loss(queries, passages, options, groups=groups, teacher_scores=scores)
    torch.testing.assert_close(loss.terms["dense"], (contrastive + taught).detach())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.total, leaves(queries, passages)))


def test_distillation_by_hand() -> None:
    student = torch.tensor([[math.log(1.0), math.log(3.0), float("-inf")]])
    teacher = torch.tensor([[math.log(2.0), math.log(2.0), float("-inf")]])
    expected = -(0.5 * math.log(0.25) + 0.5 * math.log(0.75))
    assert distillation(student, teacher).item() == pytest.approx(expected)


def test_a_perfect_teacher_adds_only_its_entropy(queries: Representations, passages: Representations) -> None:
    options = replace(OPTIONS, in_batch_negatives=False)
    sides = Representations(dense=queries.dense), Representations(dense=passages.dense)
    own = (queries.dense @ passages.dense.T / 0.02).unflatten(1, (3, 2)).diagonal().T.detach()
    entropy = torch.distributions.Categorical(logits=own).entropy().mean()
    with_teacher = m3_loss(*sides, options, teacher_scores=own).terms["dense"]
    torch.testing.assert_close(with_teacher - m3_loss(*sides, options).terms["dense"], entropy)


# --- heads and weights -----------------------------------------------------------------------------------------------


def only(side: Representations, *heads: str) -> Representations:
    return Representations(**{head: getattr(side, head) for head in heads})


def test_total_is_the_published_formula(queries: Representations, passages: Representations) -> None:
    loss = m3_loss(queries, passages, OPTIONS, teacher=live_ensemble)
    t = loss.terms
    contrastive = (t["dense"] + 0.1 * t["sparse"] + t["multi_vector"] + t["ensemble"]) / 4
    distilled = t["dense_distillation"] + 0.1 * t["sparse_distillation"] + t["multi_vector_distillation"]
    torch.testing.assert_close(loss.total, (contrastive + distilled / 3) / 2)


@pytest.mark.parametrize("heads", [("dense", "sparse"), ("dense", "multi_vector"), ("sparse", "multi_vector")])
def test_two_heads_divide_by_what_is_present(
    queries: Representations, passages: Representations, heads: tuple[str, str]
) -> None:
    loss = m3_loss(only(queries, *heads), only(passages, *heads), OPTIONS, teacher=live_ensemble)
    t, weight = loss.terms, {"dense": 1.0, "sparse": 0.1, "multi_vector": 1.0}
    contrastive = (sum(weight[head] * t[head] for head in heads) + t["ensemble"]) / 3
    distilled = sum(weight[head] * t[f"{head}_distillation"] for head in heads) / 2
    torch.testing.assert_close(loss.total, (contrastive + distilled) / 2)


@pytest.mark.parametrize(("head", "weight"), [("dense", 1.0), ("sparse", 0.1), ("multi_vector", 1.0)])
def test_a_single_head_has_neither_ensemble_nor_self_distillation(
    queries: Representations, passages: Representations, head: str, weight: float
) -> None:
    loss = m3_loss(only(queries, head), only(passages, head), OPTIONS, teacher=live_ensemble)
    assert set(loss.terms) == {head}
    everything = m3_loss(queries, passages, OPTIONS).terms
    torch.testing.assert_close(loss.total, weight * everything[head])


def test_one_temperature_equals_the_same_temperature_for_every_head(
    queries: Representations, passages: Representations
) -> None:
    per_head = PerHead(dense=0.05, sparse=0.05, multi_vector=0.05, ensemble=0.05)
    losses = [m3_loss(queries, passages, replace(OPTIONS, temperature=t)).total for t in (0.05, per_head)]
    torch.testing.assert_close(*losses)


def test_temperature_per_head_changes_that_head_only(queries: Representations, passages: Representations) -> None:
    warmer = PerHead(dense=0.02, sparse=0.5, multi_vector=0.02, ensemble=0.02)
    before = m3_loss(queries, passages, OPTIONS).terms
    after = m3_loss(queries, passages, replace(OPTIONS, temperature=warmer)).terms
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"sparse"}


def test_self_distillation_does_not_train_its_teacher(queries: Representations, passages: Representations) -> None:
    options = replace(
        OPTIONS,
        loss_weights=PerHead(dense=0, sparse=0, multi_vector=0, ensemble=0),
        distillation_weights=PerHead(dense=0, sparse=1, multi_vector=0),
    )
    m3_loss(queries, passages, options, teacher=live_ensemble).total.backward()
    assert queries.dense.grad.abs().sum() == 0
    assert queries.sparse.weights.grad.abs().sum() > 0


# --- numerics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_gradients_are_correct(queries: Representations, passages: Representations, in_batch_negatives: bool) -> None:
    temperature = PerHead(dense=0.5, sparse=1.0, multi_vector=0.5, ensemble=0.5)
    options = replace(OPTIONS, temperature=temperature, in_batch_negatives=in_batch_negatives, max_elements=300)

    def loss(*tensors: Tensor) -> Tensor:
        sides = []
        for side, (dense, weights, vectors) in zip((queries, passages), (tensors[:3], tensors[3:]), strict=True):
            sparse, multi_vector = replace(side.sparse, weights=weights), replace(side.multi_vector, vectors=vectors)
            sides.append(Representations(dense=dense, sparse=sparse, multi_vector=multi_vector))
        return m3_loss(*sides, options).total

    assert torch.autograd.gradcheck(loss, leaves(queries, passages))


def test_texts_without_tokens_give_finite_loss_and_gradients() -> None:
    queries, passages = representations([5, 1, 0], seed=1), representations([6, 0, 1, 8, 1, 2], seed=2)
    loss = m3_loss(queries, passages, OPTIONS, teacher=live_ensemble)
    assert loss.total.isfinite()
    assert max_sim(queries.multi_vector, passages.multi_vector)[:, 1].tolist() == [0, 0, 0]
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.total, leaves(queries, passages)))


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), ("multi_vector",), ("dense", "sparse", "multi_vector")])
def test_half_precision_inputs_are_scored_in_float32_under_autocast(heads: tuple[str, ...]) -> None:
    queries = only(representations([5, 6], seed=1, dtype=torch.bfloat16), *heads)
    passages = only(representations([9, 8, 7, 6], seed=2, dtype=torch.bfloat16), *heads)
    plain = m3_loss(queries, passages, OPTIONS).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = m3_loss(queries, passages, OPTIONS).total
    assert plain.dtype == autocast.dtype == torch.float32
    torch.testing.assert_close(autocast, plain, rtol=1e-6, atol=1e-6)


# --- wrong calls -----------------------------------------------------------------------------------------------------


def test_different_heads_are_refused(queries: Representations, passages: Representations) -> None:
    with pytest.raises(ValueError, match="same heads"):
        m3_loss(queries, only(passages, "dense"), OPTIONS)
    with pytest.raises(ValueError, match="at least one"):
        m3_loss(Representations(), Representations(), OPTIONS)


def test_passages_that_do_not_fill_the_groups_are_refused(queries: Representations) -> None:
    with pytest.raises(ValueError, match="4 passages for 3 queries"):
        m3_loss(queries, representations([5] * 4, seed=2), OPTIONS)


@pytest.mark.parametrize("temperature", [0.0, -1.0, PerHead(sparse=0.0)])
def test_temperatures_must_be_positive(temperature: float | PerHead) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        replace(OPTIONS, temperature=temperature)


@pytest.mark.parametrize("groups", [torch.zeros(2, 2), torch.zeros(3, 0), torch.zeros(3)])
def test_groups_must_be_of_every_query(queries: Representations, passages: Representations, groups: Tensor) -> None:
    with pytest.raises(ValueError, match="groups must have a row of passages for each of the 3 queries"):
        m3_loss(queries, passages, OPTIONS, groups=groups.long())


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"false_negative_ratio": 95}, "false_negative_ratio must be above 0 and at most 1, got 95"),
        ({"false_negative_ratio": -1}, "false_negative_ratio must be above 0"),
        ({"loss_weights": PerHead(sparse=-0.1)}, "loss_weights must be at least 0"),
        ({"score_weights": PerHead(dense=math.nan)}, "score_weights must be at least 0"),
        ({"temperature": math.nan}, "temperature must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(OPTIONS, **setting)


@pytest.mark.parametrize("argument", ["absent", "false_negatives", "teacher_scores"])
def test_wrong_shapes_are_refused(queries: Representations, passages: Representations, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must have shape"):
        m3_loss(queries, passages, OPTIONS, **{argument: torch.zeros(3, 5)})
