"""The gradient of a batch that is encoded in chunks is that of the batch in one pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m3plugins.training import Batch, M3Loss, M3Model, m3_loss
from m3plugins.training.loss import grad_cache
from m3plugins.training.loss.grad_cache import Chunks, Pair, RandomState, StepContext
from m3plugins.training.loss.joint import live_ensemble
from m3plugins.training.model import adapters
from tests.core.training.runs import OPTIONS, assert_same_gradients, batch, double_model, gradients

LONGEST = 4096
"""Tokens that no batch here has: one pass."""


def loss_of(texts: Batch) -> grad_cache.Callable[[Pair], M3Loss]:
    """All heads, their ensemble, and self-distillation."""
    return lambda pair: m3_loss(pair.queries, pair.passages, OPTIONS, groups=texts.groups, teacher=live_ensemble)


def whole(model: M3Model, texts: Batch) -> tuple[M3Loss, dict[str, Tensor]]:
    """The plain way: two padded tensors, one forward and one backward pass."""
    model.zero_grad()
    queries, passages = model([texts.queries, texts.passages])
    loss = loss_of(texts)(Pair(queries, passages))
    loss.total.backward()
    return loss, gradients(model)


def chunked(model: M3Model, texts: Batch, tokens: int) -> tuple[M3Loss, dict[str, Tensor]]:
    model.zero_grad()
    loss = grad_cache.step(model, Chunks.cut(texts, tokens), loss_of(texts), max_tokens=tokens)
    return loss, gradients(model)


def with_lora(model: M3Model) -> M3Model:
    adapters.add_lora(model.encoder, rank=2, alpha=4, dropout=0.0)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # it starts at 0, where the gradient of A is 0 too
            torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


@pytest.fixture(scope="module")
def texts(tiny: Path) -> Batch:
    return batch(tiny, queries=5)


@pytest.mark.parametrize("tokens", [1, 40, 150, LONGEST], ids=["a text a chunk", "40", "150", "one pass"])
@pytest.mark.parametrize("kind", ["full", "lora", "frozen", "checkpointing", "lora and checkpointing"])
def test_every_gradient_is_that_of_one_pass(tiny: Path, texts: Batch, kind: str, tokens: int) -> None:
    model = double_model(tiny, freeze_encoder=kind == "frozen")
    if "lora" in kind:
        model = with_lora(model)
    loss, expected = whole(model, texts)
    if "checkpointing" in kind:
        model.gradient_checkpointing_enable()
    found_loss, found = chunked(model, texts, tokens)
    assert found_loss.total.item() == pytest.approx(loss.total.item(), rel=1e-12)
    assert_same_gradients(found, expected)
    assert found.keys() == model.trainable_state().keys()


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), ("multi_vector",), ("dense", "sparse")])
def test_of_a_subset_of_heads_too_and_the_other_heads_get_no_gradient(
    tiny: Path, texts: Batch, heads: tuple[str, ...]
) -> None:
    model = double_model(tiny, heads=heads)
    _, expected = whole(model, texts)
    _, found = chunked(model, texts, 40)
    assert_same_gradients(found, expected)
    assert ("sparse_linear.weight" in found) == ("sparse" in heads)
    assert ("colbert_linear.weight" in found) == ("multi_vector" in heads)


def test_chunks_hold_every_text_once_within_the_budget(texts: Batch) -> None:
    chunks = Chunks.cut(texts, 40)
    assert len(chunks.query_rows) > 1 and len(chunks.passage_rows) > 1
    assert sorted(torch.cat(chunks.query_rows).tolist()) == list(range(len(texts.queries)))
    assert sorted(torch.cat(chunks.passage_rows).tolist()) == list(range(len(texts.passages)))
    assert max(chunk.mask.numel() for chunk in chunks.texts) <= 40


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "gradient checkpointing"])
def test_a_chunk_is_encoded_again_with_the_dropout_of_its_first_time(
    tiny_with_dropout: Path, texts: Batch, recompute: bool
) -> None:
    model = double_model(tiny_with_dropout)
    chunks = Chunks.cut(texts, 60)
    torch.manual_seed(7)
    loss = loss_of(texts)(chunks.join([model([chunk])[0] for chunk in chunks.texts]))
    loss.total.backward()
    expected, after = gradients(model), torch.get_rng_state()

    if recompute:
        model.gradient_checkpointing_enable()
    torch.manual_seed(7)
    _, found = chunked(model, texts, 60)
    assert_same_gradients(found, expected, tolerance=1e-12)
    assert torch.equal(torch.get_rng_state(), after), "encoding again moved the generator"


def test_with_other_dropout_the_gradient_would_be_another(tiny_with_dropout: Path, texts: Batch) -> None:
    """Or the test above would show nothing."""
    model = double_model(tiny_with_dropout)
    torch.manual_seed(7)
    _, first = chunked(model, texts, 60)
    _, second = chunked(model, texts, 60)
    name = "encoder.encoder.layer.0.output.dense.weight"
    assert float((first[name] - second[name]).norm()) > 1e-2 * float(first[name].norm())


def test_gradients_are_added_to_those_that_are_there(tiny: Path, texts: Batch) -> None:
    model = double_model(tiny)
    _, once = chunked(model, texts, 40)
    grad_cache.step(model, Chunks.cut(texts, 40), loss_of(texts), max_tokens=40)
    assert_same_gradients(gradients(model), {name: 2 * gradient for name, gradient in once.items()})


def test_a_scaled_backward_pass_scales_all_gradients(tiny: Path, texts: Batch) -> None:
    model = double_model(tiny)
    _, once = chunked(model, texts, 40)
    model.zero_grad()
    scaled = StepContext(backward=lambda loss: (loss * 8).backward())
    grad_cache.step(model, Chunks.cut(texts, 40), loss_of(texts), max_tokens=40, context=scaled)
    assert_same_gradients(gradients(model), {name: 8 * gradient for name, gradient in once.items()})


def test_the_random_state_is_restored_inside_and_goes_on_outside() -> None:
    state = RandomState(torch.device("cpu"))
    first = torch.rand(3)
    second = torch.rand(3)
    with state.restored():
        assert torch.equal(torch.rand(3), first)
    torch.manual_seed(0)
    with state.restored():
        torch.rand(100)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(first, second)
