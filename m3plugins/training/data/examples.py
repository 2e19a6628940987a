"""One training example: a query, passages that answer it, and passages that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from m3plugins.encoding.text import check_unicode
from m3plugins.training.data.controls import Controls

_LARGEST_SCORE = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its positives and hard negatives.

    Attributes:
        query: Text of the query, not blank.
        positives: Passages that answer the query, one at least, none blank.
        negatives: Passages that do not.
        positive_scores: Scores of an external teacher, one a positive (higher is better), or None.
        negative_scores: Scores of the same teacher, one a negative, or None.
        prompt: Prompt ahead of the query.
        source: Name of the file or collection it is from.
        max_negatives: Maximum number of negatives that an epoch draws, if a run would draw more; None: the run's.
        in_batch_negatives: False compares the query with its own passages only.
        half_batch: Halve the number of queries in batches of such examples, where a batch is of one source.

    Raises:
        ValueError: If an attribute breaks its rule; the message names it.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str = ""
    source: str = ""
    max_negatives: int | None = None
    in_batch_negatives: bool = True
    half_batch: bool = False

    def __post_init__(self) -> None:
        for name in ("query", "prompt", "source"):
            _check_text(name, getattr(self, name))
        _check_not_blank("query", self.query)
        for name in ("positives", "negatives"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if not self.positives:
            msg = "positives must hold at least one text, got none"
            raise ValueError(msg)
        for position, text in enumerate(self.positives):
            _check_not_blank(f"positives[{position}]", text)
        if not self.in_batch_negatives and not (self.negatives and self.max_negatives != 0):
            msg = "without in-batch negatives an example needs a negative of its own, got none; add neg"
            raise ValueError(msg)
        if self.negative_scores is None and self.positive_scores is not None and not self.negatives:
            object.__setattr__(self, "negative_scores", ())
        if (self.positive_scores is None) != (self.negative_scores is None):
            given, missing = ("positive", "negative") if self.negative_scores is None else ("negative", "positive")
            msg = f"scores must be given for positives and negatives, got {given}_scores only; add {missing}_scores"
            raise ValueError(msg)
        for kind in ("positive", "negative"):
            name = f"{kind}_scores"
            object.__setattr__(self, name, _scores(name, getattr(self, name), len(getattr(self, f"{kind}s"))))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], source: str = "", *, in_batch_negatives: bool = True) -> Example:
        """Reads the example that a row in FlagEmbedding's format describes.

        Args:
            row: `query`, `pos` (a list) and, if it likes, `neg`, `pos_scores`, `neg_scores`, `prompt`, `type` and
                `train_group_size`; null is as good as missing, other keys are not read. Of the types, `only_1neg`
                draws one negative, the symmetric ones halve the batch, and `symmetric_sts` and
                `symmetric_clustering` put the prompt ahead of the passages too; any other is a mere label.
            source: Name of the file or collection it is from.
            in_batch_negatives: False compares the query with its own passages only.

        Raises:
            ValueError: If a value is not what `Example` asks for.

        Example:
            >>> Example.from_row({"query": "who jumps?", "pos": ["The fox."], "neg": ["The dog."]}).negatives
            ('The dog.',)
        """
        if missing := [key for key in ("query", "pos") if row.get(key) is None]:
            keys = ", ".join(sorted(map(str, row))) or "nothing"
            msg = f"an example needs query and pos; this one lacks {' and '.join(missing)}, it has {keys}"
            raise ValueError(msg)
        controls, prompt = Controls.from_row(row), "" if row.get("prompt") is None else row["prompt"]
        example = cls(
            query=row["query"],
            positives=row["pos"],
            negatives=() if row.get("neg") is None else row["neg"],
            positive_scores=row.get("pos_scores"),
            negative_scores=row.get("neg_scores"),
            prompt=prompt,
            source=source,
            max_negatives=controls.max_negatives,
            in_batch_negatives=in_batch_negatives,
            half_batch=controls.half_batch,
        )
        return example.with_prompted_passages() if controls.prompts_passages else example

    @property
    def prompted_query(self) -> str:
        """The query with its prompt, as the model reads it."""
        return self.prompt + self.query

    @property
    def has_scores(self) -> bool:
        """True if there are a teacher's scores."""
        return self.positive_scores is not None

    @property
    def longest_passage(self) -> str:
        """The passage with the most bytes in UTF-8."""
        return max(self.positives + self.negatives, key=_size)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Bytes in UTF-8 of the query with its prompt and of the longest passage, and the number of negatives drawn."""
        drawn = len(self.negatives) if self.max_negatives is None else min(len(self.negatives), self.max_negatives)
        return _size(self.prompted_query), max(map(_size, self.positives + self.negatives)), drawn

    def with_prompted_passages(self) -> Example:
        """Returns the example with its prompt ahead of its passages too; blank ones stay blank."""
        positives, negatives = (
            tuple(self.prompt + text if text.strip() else text for text in texts)
            for texts in (self.positives, self.negatives)
        )
        return replace(self, positives=positives, negatives=negatives)

    def distinct(self) -> Example:
        """Returns the example without negatives that are blank, repeated or also positives, nor their scores."""
        seen, kept = set(self.positives), []
        for position, text in enumerate(self.negatives):
            if text.strip() and text not in seen:
                seen.add(text)
                kept.append(position)
        if len(kept) == len(self.negatives):
            return self
        scores = self.negative_scores and tuple(self.negative_scores[position] for position in kept)
        return replace(self, negatives=tuple(self.negatives[position] for position in kept), negative_scores=scores)


def _size(text: str) -> int:
    return len(text.encode())


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        msg = f"{name} must be a list of texts, got {type(value).__name__}"
        raise ValueError(msg)
    for position, text in enumerate(value):
        _check_text(f"{name}[{position}]", text)
    return tuple(value)


def _scores(name: str, value: object, texts: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != texts:
        got = f"{len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
        msg = f"{name} must be a list of {texts} numbers, one a text, got {got}"
        raise ValueError(msg)
    for position, score in enumerate(value):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) <= _LARGEST_SCORE:
            msg = f"{name}[{position}] must be a finite number (in float32), got {score!r:.40}"
            raise ValueError(msg)
    return tuple(map(float, value))


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        msg = f"{name} must be a string, got {type(value).__name__}"
        raise ValueError(msg)
    check_unicode(name, value)


def _check_not_blank(name: str, text: str) -> None:
    if not text.strip():
        msg = f"{name} must not be blank, got {text!r:.40}"
        raise ValueError(msg)
