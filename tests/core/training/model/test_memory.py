"""How many tokens' activations fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.training import M3Model, TokenBatch
from m3plugins.training.model import memory
from m3plugins.training.model.memory import chunk_tokens, free_bytes, saved_bytes

CPU = torch.device("cpu")


def texts(count: int, length: int) -> TokenBatch:
    ids = torch.full((count, length), 7)
    return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.fixture
def model(tiny: Path) -> M3Model:
    return M3Model(Checkpoint(tiny)).train()


def test_activations_grow_with_the_number_of_texts(model: M3Model) -> None:
    assert 1.8 < saved_bytes(model, texts(8, 32)) / saved_bytes(model, texts(4, 32)) < 2.2


def test_a_frozen_encoder_keeps_next_to_nothing(tiny: Path, model: M3Model) -> None:
    frozen = M3Model(Checkpoint(tiny), freeze_encoder=True).train()
    assert saved_bytes(frozen, texts(4, 32)) < 0.3 * saved_bytes(model, texts(4, 32))


def test_recomputing_activations_keeps_fewer(model: M3Model) -> None:
    kept = saved_bytes(model, texts(4, 32))
    model.gradient_checkpointing_enable()
    assert saved_bytes(model, texts(4, 32)) < 0.7 * kept


def test_measuring_leaves_no_gradient_and_the_generator_as_it_was(tiny_with_dropout: Path) -> None:
    model = M3Model(Checkpoint(tiny_with_dropout)).train()
    before = torch.get_rng_state()
    chunk_tokens(model, max_length=32, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_fits_is_at_least_one_text_and_within_the_free_memory(model: M3Model) -> None:
    found = chunk_tokens(model, max_length=64, device=CPU)
    assert 64 <= found <= 1 << 17
    assert found * saved_bytes(model, texts(1, 64)) / 64 <= free_bytes(CPU)


def test_one_machine_finds_one_number(model: M3Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power of two, although a little more or less memory is free."""
    found = []
    for free in (40 << 20, 42 << 20, 45 << 20):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        found.append(chunk_tokens(model, max_length=40, device=CPU))
    assert len(set(found)) == 1 and found[0].bit_count() == 1 and 40 < found[0] < 1 << 17


def test_what_every_pass_keeps_is_not_counted_for_each_token(model: M3Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the copies of the weights that autocast makes: 10 MB here, beside 1,000 bytes a token."""
    monkeypatch.setattr(memory, "saved_bytes", lambda model, texts, autocast: 10_000_000 + 1000 * texts.mask.numel())
    pending = 12 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(memory, "free_bytes", lambda device: pending + 10_000_000 + 2 * 1000 * 4096)
    assert chunk_tokens(model, max_length=64, device=CPU) == 4096


def test_recomputed_activations_leave_room_for_more_tokens_but_those_of_one_layer(
    model: M3Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    monkeypatch.setattr(memory, "saved_bytes", lambda *call: measured.append(saved_bytes(*call)) or measured[-1])
    chunk_tokens(model, max_length=64, device=CPU)
    model.gradient_checkpointing_enable()
    none_kept = saved_bytes(model, texts(1, 64))
    chunk_tokens(model, max_length=64, device=CPU)
    assert none_kept < measured[-1] < measured[2]
    assert saved_bytes(model, texts(1, 64)) == none_kept  # it is recomputed again
