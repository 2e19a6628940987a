"""Prompts that a run trains with and that its checkpoints state."""

from __future__ import annotations

import logging

from m3plugins.encoding.sentence_transformers import Prompts
from m3plugins.training.arguments import SelfDistillationArguments
from m3plugins.training.data.dataset import M3Dataset

logger = logging.getLogger(__name__)


def trained_prompts(args: SelfDistillationArguments, own: Prompts, dataset: M3Dataset | None) -> Prompts:
    """Returns the prompts of queries and documents: from the settings, from data that has one only, or the encoder's.

    A checkpoint states one prompt for queries. If the lines of the data have several, it is that of the lines
    without a prompt, and a warning says so.

    Args:
        args: Settings, whose prompts come first.
        own: Prompts of the encoder.
        dataset: Data whose lines may have prompts of their own.

    Raises:
        ValueError: No query would have the prompt that the settings give.
    """
    query = own.query if args.query_prompt is None else args.query_prompt
    document = own.document if args.document_prompt is None else args.document_prompt
    lines = frozenset({""}) if dataset is None else dataset.columns.prompts
    examples = ", ".join(repr(prompt) for prompt in sorted(lines - {""})[:3])
    if "" not in lines and args.query_prompt is not None and lines != {args.query_prompt}:
        reason = f"every query has its own prompt, such as {examples}"
        msg = f"query_prompt={query!r} would never be used: {reason}; leave it out"
        raise ValueError(msg)
    effective = {prompt or query for prompt in lines}
    if len(effective) == 1:
        return Prompts(query=effective.pop(), document=document)
    logger.warning(
        "the training data has %d different prompts, such as %s; the checkpoint will state %r as that of queries: "
        "give other queries theirs when you search or evaluate, as in M3Encoder.from_pretrained(…, query_prompt=…)",
        *(len(lines - {""}), examples, query),
    )
    return Prompts(query=query, document=document)
