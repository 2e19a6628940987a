"""Sources of a dataset's examples: memory, or a file that is read whenever an example is asked for."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from m3plugins.evaluation.dataset import DatasetError
from m3plugins.indexing.corpus import parse_object
from m3plugins.training.data.columns import Columns
from m3plugins.training.data.examples import Example
from m3plugins.training.data.findings import Findings

_DIGEST_BYTES = 8


class Source(Protocol):
    """Some examples of a dataset by number, their properties, and a digest that changes with them."""

    @property
    def columns(self) -> Columns: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Example: ...


class InMemory:
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.columns = Columns.of(examples)

    @cached_property
    def digest(self) -> str:
        """Digest that changes with the examples."""
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for example in self._examples:
            digest.update(f"{example!r}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int, /) -> Example:
        return self._examples[row]


class JsonLines:
    """Examples of one file. It keeps no file open, so threads and processes may share it.

    Args:
        path: File, which is read once to find where its examples are.
        name: Name of the source.
        findings: Record of the lines that are wrong.
        in_batch_negatives: `Example.in_batch_negatives` of its examples.

    Raises:
        OSError: If the file cannot be read.
    """

    def __init__(self, path: Path, name: str, findings: Findings, *, in_batch_negatives: bool = True) -> None:
        self.path, self._name, self._in_batch_negatives = path, name, in_batch_negatives
        offsets, digests = array("q"), bytearray()

        def read() -> Iterator[Example]:
            end = 0
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    start, end = end, end + len(line)
                    if line.strip():
                        with findings.at(f"{path}:{number}"):
                            example = findings.distinct(self._parse(line))
                            offsets.append(start)
                            digests.extend(_digest(line))
                            yield example

        self.columns = Columns.of(read())
        self._offsets, self._digests = np.array(offsets, np.int64), bytes(digests)

    @cached_property
    def digest(self) -> str:
        """Digest that changes with the examples."""
        return _digest(self._digests).hex()

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
        return Example.from_row(parse_object(line), self._name, in_batch_negatives=self._in_batch_negatives)


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
