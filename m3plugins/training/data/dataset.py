"""The examples that a model is trained on, by number."""

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
from numpy.typing import NDArray

from m3plugins.evaluation.dataset import Dataset, DatasetError
from m3plugins.training.data.examples import Example
from m3plugins.training.data.sources import Findings, InMemory, JsonLines, Part, Sources

logger = logging.getLogger(__name__)

_OWN_PASSAGES = "no_in_batch_neg"
"""FlagEmbedding's mark of a file whose queries have no in-batch negatives, at the end of its name."""


class M3Dataset:
    """Examples by number; make one with `from_jsonl`, `from_beir` or `from_examples`, join several with `+`.

    Negatives that are blank, repeated or also positives of their query are left out, and counted in a warning.
    It pickles, and threads and the worker processes of a data loader may share it.

    Example:
        >>> row = {"query": "who jumps?", "pos": ["The fox."], "neg": ["The dog.", "The cat."]}
        >>> dataset = M3Dataset.from_examples([row])
        >>> dataset[0].negatives
        ('The dog.', 'The cat.')
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._starts = np.array([0, *accumulate(map(len, self._parts))], np.int64)

    @classmethod
    def from_jsonl(cls, *paths: str | Path) -> M3Dataset:
        """Examples in FlagEmbedding's format (see `Example.from_row`), one a line, which stay on disk.

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
        parts = [
            JsonLines(file, file.stem if stems[file.stem] == 1 else str(file), findings, in_batch_negatives=in_batch)
            for file, in_batch in files
        ]
        return cls._of(parts, findings, ", ".join(map(str, paths)))

    @classmethod
    def from_beir(cls, folder: str | Path, split: str = "train") -> M3Dataset:
        """The judged queries of a BEIR collection, in memory; the source is the folder's name.

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
        """Examples in memory.

        Args:
            examples: `Example`s, or rows in FlagEmbedding's format (see `Example.from_row`).
            source: Of the examples that name none.

        Raises:
            DatasetError: If some are wrong (named by number, from 1), or there is none.
        """
        findings, kept = Findings(), []
        for number, item in enumerate(examples, start=1):
            with findings.at(f"example {number}"):
                kept.append(findings.distinct(_example(item, source)))
        return cls._of([InMemory(kept)], findings, "the examples given")

    @classmethod
    def _of(cls, parts: Sequence[Part], findings: Findings, place: str) -> M3Dataset:
        findings.check()
        for part in parts:
            if not len(part):
                msg = f"training data must hold at least one example, got none in {getattr(part, 'path', place)}"
                raise DatasetError(msg)
        if findings.dropped:
            reason = "blank, repeated or also positives of their query"
            logger.warning("%s: %d negatives were left out: %s", place, findings.dropped, reason)
        return cls(parts)

    def __add__(self, other: M3Dataset) -> M3Dataset:
        """These examples, then the other's; sources of one name become one."""
        return M3Dataset(self._parts + other._parts) if isinstance(other, M3Dataset) else NotImplemented

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Example:
        """One example; negative numbers count from the end.

        Raises:
            IndexError: If there is no such row.
            DatasetError: If it has changed in its file since the dataset was made.
        """
        if not -len(self) <= row < len(self):
            msg = f"row must be below {len(self)}, the number of examples, got {row}"
            raise IndexError(msg)
        row %= len(self)
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part][row - int(self._starts[part])]

    def __iter__(self) -> Iterator[Example]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes in UTF-8 of each query with its prompt and of its longest passage; negatives it draws, (n, 3)."""
        return np.concatenate([part.sizes for part in self._parts])

    @cached_property
    def prompts(self) -> frozenset[str]:
        """The different prompts of the queries; "" if some have none."""
        return frozenset().union(*(part.prompts for part in self._parts))

    @cached_property
    def prompted(self) -> NDArray[np.bool_]:
        """Which queries have a prompt of their own, (n,)."""
        return np.concatenate([part.prompted for part in self._parts])

    @cached_property
    def half_batches(self) -> NDArray[np.bool_]:
        """Which examples are trained on in batches of half the size, (n,)."""
        return np.concatenate([part.half_batches for part in self._parts])

    @cached_property
    def sources(self) -> Sources:
        """Which collection each example is from."""
        all_of = [part.sources for part in self._parts]
        joined = Sources.of([name for sources in all_of for name in sources.names])
        starts = accumulate((len(sources.names) for sources in all_of), initial=0)
        rows = [joined.rows[start + sources.rows] for start, sources in zip(starts, all_of, strict=False)]
        return Sources(joined.names, np.concatenate(rows))

    @cached_property
    def digest(self) -> str:
        """Changes with the text of the examples, and with their order."""
        return hashlib.sha256(" ".join(part.digest for part in self._parts).encode()).hexdigest()[:16]

    @cached_property
    def has_scores(self) -> bool:
        """Whether every example has a teacher's scores."""
        return all(part.has_scores for part in self._parts)


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        msg = f"training data must be a file or a folder of *.jsonl, got {path}, where there is none"
        raise FileNotFoundError(msg)
    return files


def _named(path: Path) -> Path:
    """The path by the name that was given, links kept; `.` and `..` have none."""
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
