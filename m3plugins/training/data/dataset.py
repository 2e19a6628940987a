"""The examples that a model is trained on."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from m3plugins.evaluation.dataset import Dataset, DatasetError
from m3plugins.training.data.columns import Columns
from m3plugins.training.data.examples import Example
from m3plugins.training.data.findings import Findings
from m3plugins.training.data.sources import InMemory, JsonLines, Source

logger = logging.getLogger(__name__)

_OWN_PASSAGES = "no_in_batch_neg"
"""FlagEmbedding's mark of a file whose queries have no in-batch negatives, at the end of its name."""


class M3Dataset:
    """Examples by number, made with `from_jsonl`, `from_beir` or `from_examples`; `+` joins several datasets.

    Negatives that are blank, repeated or also positives of their query are left out, and counted in a warning.
    It pickles, and threads and the worker processes of a data loader may share it.

    Example:
        >>> row = {"query": "who jumps?", "pos": ["The fox."], "neg": ["The dog.", "The cat."]}
        >>> dataset = M3Dataset.from_examples([row])
        >>> dataset[0].negatives
        ('The dog.', 'The cat.')
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._starts = np.array([0, *accumulate(map(len, self._sources))], np.int64)

    @classmethod
    def from_jsonl(cls, *paths: str | Path) -> M3Dataset:
        """Reads examples in FlagEmbedding's format (see `Example.from_row`), one a line, which stay on disk.

        Args:
            paths: Files, or folders of `*.jsonl`. Each file is one source: its name without the extension, or the
                whole path where several files have that name. The queries of a file whose name, or that of the folder
                that was given, ends in `no_in_batch_neg` are compared with their own passages only.

        Raises:
            FileNotFoundError: If there is no such file.
            DatasetError: If lines are wrong (the first 10 are named, all are counted), or a file has none.
        """
        if not paths:
            msg = "from_jsonl needs at least one path, got none"
            raise DatasetError(msg)
        files = [(file, _in_batch(file, Path(path))) for path in paths for file in _files(Path(path))]
        stems, findings = Counter(file.stem for file in {file for file, _ in files}), Findings()
        sources = [
            JsonLines(file, file.stem if stems[file.stem] == 1 else str(file), findings, in_batch_negatives=in_batch)
            for file, in_batch in files
        ]
        return cls._of(sources, findings, ", ".join(map(str, paths)))

    @classmethod
    def from_beir(cls, folder: str | Path, split: str = "train") -> M3Dataset:
        """Reads the judged queries of a BEIR collection into memory; the source is the folder's name.

        Documents judged above 0 are positives, the other judged ones negatives; a query without positives is left
        out. A document's text is its title and its text, as `Document.content`.

        Raises:
            FileNotFoundError: If a file is missing.
            DatasetError: If a line is malformed, or the corpus lacks a judged document.
        """
        collection = Dataset.load(folder, split)
        judged = {document for judgements in collection.qrels.values() for document in judgements}
        texts: dict[str, str] = {}
        for document in collection.documents():
            if document.id in judged and texts.setdefault(document.id, document.content) != document.content:
                msg = f"{folder}: corpus.jsonl has two documents {document.id!r}; give each an id of its own"
                raise DatasetError(msg)
        if missing := sorted(judged - texts.keys()):
            msg = f"{folder}: corpus.jsonl lacks {len(missing)} judged documents, such as {missing[0]!r}"
            raise DatasetError(msg)
        findings, examples, unanswered = Findings(), [], 0
        for query, judgements in collection.qrels.items():
            positives = tuple(texts[document] for document, relevance in judgements.items() if relevance > 0)
            negatives = tuple(texts[document] for document, relevance in judgements.items() if relevance <= 0)
            unanswered += not positives
            if positives:
                with findings.at(f"{folder}: query {query!r}"):
                    example = Example(collection.queries[query], positives, negatives, source=_named(Path(folder)).name)
                    examples.append(findings.distinct(example))
        if unanswered:
            logger.warning("%s: %d queries without a relevant document were left out", folder, unanswered)
        return cls._of([InMemory(examples)], findings, f"split {split!r} of {folder}")

    @classmethod
    def from_examples(cls, examples: Iterable[Example | Mapping[str, Any]], source: str = "") -> M3Dataset:
        """Keeps examples in memory.

        Args:
            examples: `Example`s, or rows in FlagEmbedding's format (see `Example.from_row`).
            source: Source of the examples that name none.

        Raises:
            DatasetError: If some are wrong (named by number, from 1), or there is none.
        """
        findings, kept = Findings(), []
        for number, item in enumerate(examples, start=1):
            with findings.at(f"example {number}"):
                kept.append(findings.distinct(_example(item, source)))
        return cls._of([InMemory(kept)], findings, "the examples given")

    @classmethod
    def _of(cls, sources: Sequence[Source], findings: Findings, place: str) -> M3Dataset:
        findings.check()
        for source in sources:
            if not len(source):
                msg = f"training data must hold at least one example, got none in {getattr(source, 'path', place)}"
                raise DatasetError(msg)
        if findings.dropped:
            reason = "blank, repeated or also positives of their query"
            logger.warning("%s: %d negatives were left out: %s", place, findings.dropped, reason)
        return cls(sources)

    def __add__(self, other: M3Dataset) -> M3Dataset:
        """Returns these examples, then the other's; sources of one name become one."""
        return M3Dataset(self._sources + other._sources) if isinstance(other, M3Dataset) else NotImplemented

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Example:
        """Returns one example; negative numbers count from the end.

        Raises:
            IndexError: If there is no such row.
            DatasetError: If it has changed in its file since the dataset was made.
        """
        if not -len(self) <= row < len(self):
            msg = f"row must be below {len(self)}, the number of examples, got {row}"
            raise IndexError(msg)
        row %= len(self)
        source = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._sources[source][row - int(self._starts[source])]

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def columns(self) -> Columns:
        """Properties of all examples."""
        return Columns.joined([source.columns for source in self._sources])

    @cached_property
    def digest(self) -> str:
        """Digest that changes with the text of the examples and with their order."""
        return hashlib.sha256(" ".join(source.digest for source in self._sources).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        msg = f"training data must be a file or a folder of *.jsonl, got {path}, where there is none"
        raise FileNotFoundError(msg)
    return files


def _named(path: Path) -> Path:
    """Returns the path by the name that was given, links kept; `.` and `..` have none."""
    return Path(os.path.abspath(path))


def _in_batch(file: Path, given: Path) -> bool:
    return not any(path.stem.endswith(_OWN_PASSAGES) for path in (file, _named(given)))


def _example(item: Example | Mapping[str, Any], source: str) -> Example:
    if isinstance(item, Example):
        return item if item.source else replace(item, source=source)
    if isinstance(item, Mapping):
        return Example.from_row(item, source)
    msg = f"must be an Example or a mapping, got {type(item).__name__}"
    raise ValueError(msg)
