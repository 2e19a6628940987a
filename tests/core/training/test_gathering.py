"""Two processes with half of the batch each compute the gradient of one process with the whole batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from m3plugins.training import Batch, TokenBatch, grad_cache, m3_loss, masking
from m3plugins.training.gathering import gather_representations, gather_rows
from m3plugins.training.grad_cache import Chunks, Pair
from m3plugins.training.losses import live_ensemble
from tests.core.training.runs import OPTIONS, assert_same_gradients, batch, double_model, gradients, in_world

pytestmark = pytest.mark.slow


def join_group() -> None:
    dist.init_process_group("gloo")


def share(whole: Batch, rank: int, size: int) -> Batch:
    """Some of a batch's queries, and their passages, padded to the longest of them."""
    queries = torch.arange(len(whole.queries)).chunk(size)[rank]
    passages = torch.arange(len(whole.passages)).chunk(size)[rank]
    return replace(
        whole,
        queries=whole.queries.select(queries),
        passages=whole.passages.select(passages),
        passage_keys=whole.passage_keys[passages],
        positive_keys=whole.positive_keys[queries],
    )


def with_repeats(whole: Batch) -> Batch:
    """The first query's positive is also a negative of the fourth, the second's hard negative one of the third."""
    ids, mask, keys = whole.passages.input_ids.clone(), whole.passages.mask.clone(), whole.passage_keys.clone()
    for source, target in ((0, 10), (4, 7)):
        ids[target], mask[target], keys[target] = ids[source], mask[source], keys[source]
    return replace(whole, passages=TokenBatch(ids, mask), passage_keys=keys)


def gradients_of(
    checkpoint: Path, repeats: bool, tokens: int, learned: bool, gathers: bool = True
) -> dict[str, Tensor]:
    """Of `grad_cache.step` as the trainer calls it: by this process alone, or by its group, under DDP."""
    torch.manual_seed(0)
    whole = batch(checkpoint, queries=4)
    whole = with_repeats(whole) if repeats else whole
    model: Any = double_model(checkpoint)
    temperatures = {name: torch.tensor(0.4, dtype=torch.float64, requires_grad=True) for name in ("dense", "ensemble")}
    mine, size = whole, 1
    if dist.is_initialized():
        size = dist.get_world_size()
        mine = share(whole, dist.get_rank(), size)
        model = DistributedDataParallel(model)

    def loss(pair: Pair) -> Any:
        passages, keys = pair.passages, mine.passage_keys
        if size > 1:
            passages, keys = gather_representations(passages), gather_rows(keys)
        excluded = masking.repeats(mine, keys, in_batch_negatives=True) | masking.known_positives(mine, keys)
        return m3_loss(
            pair.queries, passages, OPTIONS, group_size=mine.group_size, false_negatives=excluded,
            teacher=live_ensemble, temperatures=temperatures if learned else None,
        )  # fmt: skip

    chunks = Chunks.cut(mine, min(tokens, 4096))
    hold = model.no_sync if size > 1 else nullcontext
    grad_cache.step(model, chunks, loss, max_tokens=tokens, hold_sync=hold)
    found = gradients(model.module if size > 1 else model)
    if learned:
        for name, value in temperatures.items():
            if size > 1:
                dist.all_reduce(value.grad)
            found[f"temperature {name}"] = value.grad / size
    return found


def gradients_in_group(*args: Any) -> dict[str, Tensor]:
    join_group()
    return gradients_of(*args)


@pytest.mark.parametrize("tokens", [1, 60, 4096], ids=["a text a chunk", "chunks", "one pass"])
@pytest.mark.parametrize("repeats", [False, True], ids=["distinct texts", "texts that repeat"])
def test_the_gradient_of_two_processes_is_that_of_one(tiny: Path, tokens: int, repeats: bool) -> None:
    expected = gradients_of(tiny, repeats, 4096, True)
    for found in in_world(2, gradients_in_group, tiny, repeats, tokens, True):
        assert_same_gradients(found, expected)


def test_of_three_processes_too_some_of_which_encode_in_chunks(tiny: Path) -> None:
    """Each with other numbers of tokens, so that padding and passes differ."""
    expected = gradients_of(tiny, False, 4096, False)
    for found in in_world(4, gradients_in_group, tiny, False, 110, False):
        assert_same_gradients(found, expected)


def gathered() -> tuple[list[int], list[int], list[list[list[float]]], list[bool]]:
    join_group()
    rank = dist.get_rank()
    rows = torch.tensor([[10 * rank], [10 * rank + 1]])
    vectors = torch.full((1, 1 + rank, 2), float(rank + 1))  # as wide as its rank says
    mask = torch.ones(1, 1 + rank, dtype=torch.bool)
    return (
        gather_rows(rows).flatten().tolist(),
        gather_rows(torch.tensor([rank])).tolist(),
        gather_rows(vectors).tolist(),
        gather_rows(mask).tolist(),
    )


def test_own_rows_come_first_then_the_others_by_rank_padded_with_zeros() -> None:
    found = in_world(3, gathered)
    assert [rows for _, rows, _, _ in found] == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    assert [rows for rows, _, _, _ in found] == [[0, 1, 10, 11, 20, 21], [10, 11, 0, 1, 20, 21], [20, 21, 0, 1, 10, 11]]
    assert found[1][2] == [[[2.0, 2.0]] * 2 + [[0.0, 0.0]], [[1.0, 1.0]] + [[0.0, 0.0]] * 2, [[3.0, 3.0]] * 3]
    assert found[1][3] == [[True, True, False], [True, False, False], [True, True, True]]


def gathered_gradient() -> list[float]:
    join_group()
    rank = dist.get_rank()
    rows = torch.tensor([[1.0 + rank]], requires_grad=True)
    weights = torch.tensor([[1.0], [10.0]]) * (1 + rank)  # own row, the other's
    (gather_rows(rows) * weights).sum().backward()
    return rows.grad.flatten().tolist()


def test_a_row_gets_the_gradients_of_all_processes() -> None:
    assert in_world(2, gathered_gradient) == [[1.0 + 20.0], [2.0 + 10.0]]
