"""GradCache (Gao et al., arXiv 2101.06983) for all three heads: a batch's gradient in the memory of one chunk.

Encode every chunk without gradient; compute the loss of the whole batch and its gradient with respect to the
representations; encode each chunk again, with the same dropout, and send that gradient through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from m3plugins.encoding.batching import token_budget_batches
from m3plugins.training.data.batch import Batch, TokenBatch
from m3plugins.training.loss.joint import M3Loss
from m3plugins.training.loss.representations import Representations, assemble

Encode = Callable[[Sequence[TokenBatch]], Sequence[Representations]]


@dataclass(frozen=True)
class Pair:
    """The representations of a batch's queries and of its passages."""

    queries: Representations
    passages: Representations


@dataclass(frozen=True)
class Chunks:
    """A batch cut into chunks of texts of similar length: first chunks of queries, then of passages."""

    batch: Batch
    query_rows: list[Tensor]
    passage_rows: list[Tensor]

    @classmethod
    def cut(cls, batch: Batch, max_tokens: int) -> Chunks:
        """Cuts a batch into chunks of at most `max_tokens` padded tokens; a longer text is a chunk of its own."""
        return cls(batch, _rows(batch.queries, max_tokens), _rows(batch.passages, max_tokens))

    @property
    def texts(self) -> list[TokenBatch]:
        """The texts of each chunk."""
        queries = [self.batch.queries.select(rows) for rows in self.query_rows]
        return queries + [self.batch.passages.select(rows) for rows in self.passage_rows]

    def join(self, parts: Sequence[Representations]) -> Pair:
        """Returns the representations of the whole batch, from those of each chunk."""
        cut = len(self.query_rows)
        return Pair(
            assemble(parts[:cut], self.query_rows, self.batch.queries),
            assemble(parts[cut:], self.passage_rows, self.batch.passages),
        )


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """Callables with which a trainer surrounds the passes of a step.

    Attributes:
        backward: Function that starts the backward pass of the loss; it may scale it.
        agreed: Function that returns True if the batches of all processes fit, given whether this one's does:
            processes with one pass and with two would exchange gradients and representations in different orders.
        hold_sync: Context of all passes but the last: DDP's `no_sync`, so that gradients are exchanged once.
        one_lookup: Context of the chunks' backward passes: `M3Model.one_lookup`, but not under DDP, which exchanges
            gradients before the block ends.
    """

    backward: Callable[[Tensor], None] = Tensor.backward
    agreed: Callable[[bool], bool] = bool
    hold_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    one_lookup: Callable[[Sequence[TokenBatch]], AbstractContextManager[object]] = nullcontext


def step(
    encode: Encode,
    chunks: Chunks,
    loss_of: Callable[[Pair], M3Loss],
    *,
    max_tokens: int,
    context: StepContext = StepContext(),
) -> M3Loss:
    """Adds the gradient of a batch's loss to the parameters, in one pass if it fits and else in two.

    Args:
        encode: Model that encodes chunks of texts.
        chunks: Batch, cut into chunks.
        loss_of: Function that returns the loss of the whole batch.
        max_tokens: Maximum number of tokens whose activations are held at a time.
        context: Callables around the passes.

    Returns:
        The loss of the batch.
    """
    texts = chunks.texts
    if context.agreed(sum(chunk.mask.numel() for chunk in texts) <= max_tokens):
        loss = loss_of(chunks.join(encode(texts)))
        context.backward(loss.total)
        return loss

    states: list[RandomState] = []
    encoded: list[Representations] = []
    with torch.no_grad():
        for chunk in texts:
            states.append(RandomState(chunk.mask.device))
            encoded += encode([chunk])
    leaves = [part.map(lambda tensor: tensor.detach().requires_grad_()) for part in encoded]
    loss = loss_of(chunks.join(leaves))
    with context.hold_sync():
        context.backward(loss.total)
    with context.one_lookup(texts):
        for number, (chunk, state, leaf) in enumerate(zip(texts, states, leaves, strict=True), start=1):
            with context.hold_sync() if number < len(texts) else nullcontext(), state.restored():
                (again,) = encode([chunk])
                pairs = zip(again.floating, leaf.floating, strict=True)
                torch.stack([(now * then.grad).sum() for now, then in pairs if then.grad is not None]).sum().backward()  # type: ignore[no-untyped-call]
    return loss


class RandomState:
    """Captures the state of the random number generators of the CPU and of a device."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [device.index or 0] if device.type == "cuda" else []
        self._states = [torch.cuda.get_rng_state(index) for index in self._cuda]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restores the state inside the block; afterwards the generators continue as if the block had not been."""
        with torch.random.fork_rng(devices=self._cuda):
            torch.set_rng_state(self._cpu)
            for index, state in zip(self._cuda, self._states, strict=True):
                torch.cuda.set_rng_state(state, index)
            yield


def _rows(texts: TokenBatch, max_tokens: int) -> list[Tensor]:
    batches = token_budget_batches(texts.lengths.cpu().numpy(), max_tokens)
    return [torch.from_numpy(rows).to(texts.mask.device) for rows in batches]
