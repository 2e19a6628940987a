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

from m3plugins.training import Batch, m3_loss
from m3plugins.training.loss import grad_cache, masking
from m3plugins.training.loss.gathering import gather_representations, gather_rows
from m3plugins.training.loss.grad_cache import Chunks, Pair, StepContext
from m3plugins.training.loss.joint import live_ensemble
from tests.core.training.runs import OPTIONS, assert_same_gradients, batch, double_model, gradients, in_world

pytestmark = pytest.mark.slow


def join_group() -> None:
    dist.init_process_group("gloo")


def share(whole: Batch, rank: int, size: int) -> Batch:
    """Some of a batch's queries, and their passages, padded to the longest of them."""
    queries = torch.arange(len(whole.queries)).chunk(size)[rank]
    passages, groups = whole.groups[queries].unique(return_inverse=True)
    return replace(
        whole,
        queries=whole.queries.select(queries),
        passages=whole.passages.select(passages),
        groups=groups,
        query_keys=whole.query_keys[queries],
        passage_keys=whole.passage_keys[passages],
        positive_keys=whole.positive_keys[queries],
    )


def with_repeats(whole: Batch) -> Batch:
    """The first query's positive is also a negative of the fourth, the second's hard negative one of the third.

    The second query and the last are one, with different positives.
    """
    groups, query_keys = whole.groups.clone(), whole.query_keys.clone()
    groups[3, 1], groups[2, 1] = groups[0, 0], groups[1, 1]
    query_keys[3] = query_keys[1]
    kept, groups = groups.unique(return_inverse=True)
    passages, keys = whole.passages.select(kept), whole.passage_keys[kept]
    return replace(whole, passages=passages, passage_keys=keys, groups=groups, query_keys=query_keys)


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
        passages, known = pair.passages, [mine.passage_keys, mine.query_keys, mine.positive_keys]
        if size > 1:
            passages, known = gather_representations(passages), [gather_rows(each) for each in known]
        keys, asked, answers = known
        return m3_loss(
            pair.queries, passages, OPTIONS, groups=mine.groups, absent=masking.repeats(keys),
            false_negatives=masking.known_positives(mine.query_keys, keys, asked, answers),
            teacher=live_ensemble, temperatures=temperatures if learned else None,
        )  # fmt: skip

    chunks = Chunks.cut(mine, min(tokens, 4096))
    hold = model.no_sync if size > 1 else nullcontext
    grad_cache.step(model, chunks, loss, max_tokens=tokens, context=StepContext(hold_sync=hold))
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
