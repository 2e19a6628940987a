"""Where a dataset's examples lie: in memory, or in a file that is read whenever one is asked for."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from m3plugins.evaluation.dataset import DatasetError
from m3plugins.retrieval.corpus import parse_object
from m3plugins.training.data.examples import Example

REASONS_SHOWN = 10
_DIGEST_BYTES = 8


@dataclass(frozen=True, eq=False)
class Sources:
    """Which collection each example is from.

    Attributes:
        names: Of the collections.
        rows: For each example the position of its collection in `names`, (n,) int64.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, names: Sequence[str]) -> Sources:
        """The sources of examples whose collections have these names, (n,)."""
        positions = {name: position for position, name in enumerate(dict.fromkeys(names))}
        return cls(tuple(positions), np.array([positions[name] for name in names], np.int64))


class Part(Protocol):
    """Some examples of a dataset by number, and what `M3Dataset` tells of them."""

    @property
    def sizes(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def sources(self) -> Sources: ...  # noqa: D102
    @property
    def prompts(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def prompted(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def half_batches(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def has_scores(self) -> bool: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Example: ...


@dataclass
class Findings:
    """What is wrong with examples, and what was left out of them.

    Attributes:
        dropped: Negatives left out: blank, repeated or also positives.
        wrong: How many places hold no example.
        reasons: Of the first of them.
    """

    dropped: int = 0
    wrong: int = 0
    reasons: list[str] = field(default_factory=list)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Notes a ValueError that is raised within, and lets no further."""
        try:
            yield
        except ValueError as err:
            self.wrong += 1
            if self.wrong <= REASONS_SHOWN:
                self.reasons.append(f"{place}: {err}")

    def distinct(self, example: Example) -> Example:
        """`Example.distinct`, counted."""
        distinct = example.distinct()
        self.dropped += len(example.negatives) - len(distinct.negatives)
        return distinct

    def check(self) -> None:
        """Raises DatasetError if anything was wrong."""
        if self.wrong:
            count = "1 example is" if self.wrong == 1 else f"{self.wrong} examples are"
            further = [f"and {self.wrong - REASONS_SHOWN} more"] if self.wrong > REASONS_SHOWN else []
            raise DatasetError("\n".join([f"{count} wrong:", *self.reasons, *further]))


class InMemory:
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.sizes: NDArray[np.int64] = np.array([example.sizes for example in examples], np.int64).reshape(-1, 3)
        self.half_batches: NDArray[np.bool_] = np.array([example.half_batch for example in examples], np.bool_)
        self.prompts = frozenset(example.prompt for example in examples)
        self.prompted: NDArray[np.bool_] = np.array([example.prompt != "" for example in examples], np.bool_)
        self.sources = Sources.of([example.source for example in examples])
        self.has_scores = all(example.has_scores for example in examples)

    @cached_property
    def digest(self) -> str:
        """Changes with the examples."""
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for example in self._examples:
            digest.update(f"{example!r}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int, /) -> Example:
        return self._examples[row]


class JsonLines:
    """The examples of one file, of one source. It keeps no file open, so threads and processes may share it.

    Args:
        path: The file, which is read once to find where its examples are.
        source: Their source.
        in_batch_negatives: Of its examples.
        findings: Hears of lines that are wrong.

    Raises:
        OSError: If the file cannot be read.
    """

    def __init__(self, path: Path, source: str, findings: Findings, *, in_batch_negatives: bool = True) -> None:
        self.path, self._source, self.has_scores = path, source, True
        self._in_batch_negatives = in_batch_negatives
        offsets, sizes, halves, prompted, end = array("q"), array("q"), array("b"), array("b"), 0
        prompts: set[str] = set()
        digests = bytearray()
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start, end = end, end + len(line)
                if line.strip():
                    with findings.at(f"{path}:{number}"):
                        example = findings.distinct(self._parse(line))
                        offsets.append(start)
                        digests += _digest(line)
                        sizes.extend(example.sizes)
                        halves.append(example.half_batch)
                        prompted.append(example.prompt != "")
                        prompts.add(example.prompt)
                        self.has_scores = self.has_scores and example.has_scores
        self._offsets, self._digests = np.array(offsets, np.int64), bytes(digests)
        self.half_batches: NDArray[np.bool_] = np.array(halves, np.bool_)
        self.prompts = frozenset(prompts)
        self.prompted: NDArray[np.bool_] = np.array(prompted, np.bool_)
        self.sizes: NDArray[np.int64] = np.array(sizes, np.int64).reshape(-1, 3)

    @cached_property
    def digest(self) -> str:
        """Changes with the examples."""
        return _digest(self._digests).hex()

    @property
    def sources(self) -> Sources:
        """The one source."""
        return Sources((self._source,), np.zeros(len(self), np.int64))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int, /) -> Example:
        """Reads and parses one line.

        Raises:
            DatasetError: If the line has changed since it was found.
        """
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[row]))
            line = file.readline()
        if _digest(line) != self._digests[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES]:
            msg = f"{self.path} has changed since the dataset was made; make the dataset anew"
            raise DatasetError(msg)
        return self._parse(line).distinct()

    def _parse(self, line: bytes) -> Example:
        return Example.from_row(parse_object(line), self._source, in_batch_negatives=self._in_batch_negatives)


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
