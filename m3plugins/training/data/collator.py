"""Drawing from examples, and collating what was drawn into the batch of a step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from m3plugins.encoding.checkpoint import Checkpoint
from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, load_tokenizer
from m3plugins.training.data.batch import Batch, TokenBatch
from m3plugins.training.data.dataset import M3Dataset
from m3plugins.training.data.sampling import Draw


@dataclass(frozen=True, slots=True)
class Drawn:
    """An example as one step sees it.

    Attributes:
        query: Text of the query, without a prompt.
        passages: One of its positives, then negatives.
        positives: All of its positives.
        scores: Scores of an external teacher, one a passage, or None.
        in_batch_negatives: True if passages of other queries are negatives too.
        prompt: Prompt of the query; "" leaves it to the run.
    """

    query: str
    passages: tuple[str, ...]
    positives: tuple[str, ...]
    scores: tuple[float, ...] | None
    in_batch_negatives: bool = True
    prompt: str = ""


class Draws(Dataset[Drawn]):
    """Draws one positive and some negatives of each example; seed, epoch and row alone decide which.

    Args:
        dataset: Examples to draw from.
        negatives: Maximum number per query, drawn without replacement.
        seed: Seed of the choices.

    Raises:
        ValueError: If `negatives` or `seed` is negative.
    """

    def __init__(self, dataset: M3Dataset, negatives: int, seed: int = 0) -> None:
        if negatives < 0 or seed < 0:
            msg = f"negatives and seed must be at least 0, got {negatives} and {seed}"
            raise ValueError(msg)
        self._dataset, self._negatives, self._seed = dataset, negatives, seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> Drawn:
        example = self._dataset[draw.row]
        random = np.random.default_rng((self._seed, *draw))
        positive = int(random.integers(len(example.positives)))
        most = self._negatives if example.max_negatives is None else min(self._negatives, example.max_negatives)
        negatives = random.permutation(len(example.negatives))[:most].tolist()
        scores = None
        if example.positive_scores is not None and example.negative_scores is not None:
            scores = (example.positive_scores[positive], *(example.negative_scores[each] for each in negatives))
        return Drawn(
            query=example.query,
            passages=(example.positives[positive], *(example.negatives[each] for each in negatives)),
            positives=example.positives,
            scores=scores,
            in_batch_negatives=example.in_batch_negatives,
            prompt=example.prompt,
        )


class M3Collator:
    """Makes a `Batch` of drawn examples, each text encoded as `M3Encoder` does. Worker processes may share it.

    Args:
        checkpoint: Checkpoint whose tokenizer is used.
        query_max_length: Maximum number of tokens of a query, special tokens included; longer ones are cut.
        passage_max_length: Maximum number of tokens of a passage.
        prompts: Prompts ahead of queries that have none of their own, and of passages.
        with_scores: Pass on the external teacher's scores.

    Raises:
        ValueError: If the checkpoint has no fast tokenizer.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        query_max_length: int,
        passage_max_length: int,
        prompts: Prompts = Prompts(),  # noqa: B008
        with_scores: bool = False,
    ) -> None:
        tokenizer, special = load_tokenizer(checkpoint.folder)
        self._queries = TextTokenizer(tokenizer, Layout(query_max_length))
        self._passages = TextTokenizer(tokenizer, Layout(passage_max_length, prompt=prompts.document))
        self._query_prompt = prompts.query
        self._pad_id, self._with_scores = special.pad, with_scores

    def __call__(self, examples: Sequence[Drawn]) -> Batch:
        """Tokenises and pads.

        Args:
            examples: Drawn examples, one a query.

        Raises:
            ValueError: If scores are asked for, and an example has none.
        """
        texts = list(dict.fromkeys(passage for example in examples for passage in example.passages))
        row = {text: number for number, text in enumerate(texts)}
        scores = _filled([_scores(each) for each in examples], -math.inf) if self._with_scores else None
        asked = [(example.prompt or self._query_prompt) + example.query for example in examples]
        own_only = [not example.in_batch_negatives for example in examples]
        queries = self._queries.tokenize(asked)
        passages = self._passages.tokenize(texts)
        return Batch(
            queries=TokenBatch.of(queries, self._pad_id),
            passages=TokenBatch.of(passages, self._pad_id),
            groups=_filled([[row[text] for text in example.passages] for example in examples], -1),
            query_keys=torch.tensor([text_key(query) for query in asked]),
            passage_keys=torch.tensor([text_key(text) for text in texts]),
            positive_keys=_filled([[text_key(text) for text in example.positives] for example in examples], 0),
            teacher_scores=scores,
            own_passages_only=torch.tensor(own_only),
            all_own_passages_only=all(own_only),
            truncated=sum(text.truncated for text in queries + passages),
        )


def text_key(text: str) -> int:
    """Returns a number of 63 bits, over 0, that stands for a text, the same in every process.

    Example:
        >>> text_key("fox") == text_key("fox"), text_key("fox") == text_key("dog"), text_key("fox") > 0
        (True, False, True)
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1 or 1


def _filled(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Fills the rows up to the longest of them."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _scores(example: Drawn) -> tuple[float, ...]:
    if example.scores is None:
        msg = (
            f"with_scores needs pos_scores and neg_scores of every example, got none for {example.query!r:.80}; "
            "leave it out, or score the data"
        )
        raise ValueError(msg)
    return example.scores
