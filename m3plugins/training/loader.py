"""The data loader of a run."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.collator import Draws, M3Collator
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.lengths import estimated_lengths
from m3plugins.training.data.sampling import LengthGroupedBatches


class EpochLoader(DataLoader[Any]):
    """Loads batches that are shuffled anew in each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the shuffling of the epoch."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def train_loader(
    dataset: M3Dataset,
    args: SelfDistillationArguments,
    tokenizer: Tokenizer,
    collator: M3Collator,
    prompts: Prompts,
) -> EpochLoader:
    """Returns a loader of this process' share of batches, of texts of similar length; the seed decides which."""
    lengths = estimated_lengths(
        dataset,
        tokenizer,
        max_query_length=args.query_max_length,
        max_passage_length=args.passage_max_length,
        negatives=args.negatives,
        prompts=prompts,
    )
    batches = LengthGroupedBatches(
        lengths,
        dataset.columns.source_of,
        batch_size=args.per_device_train_batch_size,
        token_budget=args.batch_tokens,
        same_source=args.same_source,
        halved=dataset.columns.half_batches,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        rank=args.process_index,
        world_size=args.world_size,
        drop_last=args.dataloader_drop_last,
    )
    return EpochLoader(
        Draws(dataset, negatives=args.negatives, seed=args.seed),
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        generator=torch.Generator(),  # workers' seeds would draw from the global one, once a run or once an epoch
    )
