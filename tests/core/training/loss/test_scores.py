"""Scores of each head: by hand, masked, in bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m3plugins.training import Representations, TokenVectors, TokenWeights, m3_loss
from m3plugins.training.loss.joint import live_ensemble
from m3plugins.training.loss.scores import lexical_vectors, max_sim
from tests.core.training.loss.sides import CLS, EOS, OPTIONS, PAD, UNK, LargestTensor, leaves, representations

# --- multi-vector ----------------------------------------------------------------------------------------------------


def test_max_sim_by_hand() -> None:
    queries = TokenVectors(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[1, 1]]))
    passages = TokenVectors(
        torch.tensor([[[0.6, 0.8], [1.0, 0.0]], [[0.0, -1.0], [0.0, 0.0]]]), torch.tensor([[1, 1], [1, 0]])
    )
    torch.testing.assert_close(max_sim(queries, passages), torch.tensor([[(1.0 + 0.8) / 2, (0.0 - 1.0) / 2]]))


def test_padding_never_wins_over_negative_similarities() -> None:
    queries = TokenVectors(torch.tensor([[[1.0, 0.0], [5.0, 5.0]]]), torch.tensor([[1, 0]]))
    padded = TokenVectors(torch.tensor([[[-1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]]), torch.tensor([[1, 0, 0]]))
    assert max_sim(queries, padded).item() == -1.0


@pytest.mark.parametrize("max_elements", [1, 150, 400])
def test_blocks_equal_one_block(queries: Representations, passages: Representations, max_elements: int) -> None:
    blockwise = m3_loss(queries, passages, replace(OPTIONS, max_elements=max_elements)).total
    full = m3_loss(queries, passages, OPTIONS).total
    torch.testing.assert_close(blockwise, full)
    inputs = leaves(queries, passages)
    torch.testing.assert_close(torch.autograd.grad(blockwise, inputs), torch.autograd.grad(full, inputs))


def test_blocks_bound_memory_forward_and_backward() -> None:
    queries, passages = representations([10] * 4, seed=1), representations([40] * 32, seed=2)
    with LargestTensor() as largest:
        scores = max_sim(queries.multi_vector, passages.multi_vector, max_elements=4_000)
        scores.sum().backward()
    similarities = scores.numel() * 9 * 39
    assert largest.numel <= passages.multi_vector.vectors.numel() < similarities


# --- sparse ----------------------------------------------------------------------------------------------------------


def test_sparse_takes_the_largest_weight_of_an_id_and_drops_specials_and_padding() -> None:
    queries = TokenWeights(
        torch.tensor([[0.9, 0.2, 0.5, 0.9, 0.9]]), torch.tensor([[CLS, 7, 7, EOS, 9]]), torch.tensor([[1, 1, 1, 1, 0]])
    )
    passages = TokenWeights(
        torch.tensor([[0.9, 0.4, 0.3, 0.9], [0.9, 0.9, 0.9, 0.9]]),
        torch.tensor([[CLS, 7, 9, EOS], [CLS, UNK, EOS, PAD]]),
        torch.ones(2, 4),
    )
    query_vectors, passage_vectors = lexical_vectors(queries, passages, OPTIONS.special_ids)
    torch.testing.assert_close(query_vectors @ passage_vectors.T, torch.tensor([[0.5 * 0.4, 0.0]]))


def test_no_tensor_has_the_size_of_the_vocabulary(queries: Representations, passages: Representations) -> None:
    with LargestTensor() as largest:
        m3_loss(queries, passages, OPTIONS, teacher=live_ensemble).total.backward()
    assert largest.numel < 2_000
