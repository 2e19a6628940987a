"""Documents in several versions, and the embeddings of each text, made once."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from m3plugins import Document, M3Encoder, M3Output
from tests.tiny import SENTENCES

WORDS = " ".join(SENTENCES).split()
STORED = 32
"""Documents in the index before an operation; as many again are new to it."""
VERSIONS = 4
LONG = 70_000
"""Characters of a long text: it continues in text blocks (65,535 bytes a row)."""
MAX_LENGTH = 1536
"""Tokens: a long text's token vectors take two blocks (1,445 of width 32 in 8 bit)."""


def load_encoder(checkpoint: str | Path) -> M3Encoder:
    return M3Encoder.from_pretrained(checkpoint, document_max_length=MAX_LENGTH)


def document(number: int, version: int = 0) -> Document:
    """A version of a document; a long text becomes shorter in one version and short in the next."""
    choose = random.Random(f"{number}/{version}")
    words = choose.choices(WORDS, k=choose.randint(5, 20))
    age = (version - number) % 16
    text = " ".join(words)
    if age < 2:
        text = f"{text} " * ((2 - age) * LONG // len(text))
    return Document(
        id=f"doc-{number}",
        text=text,
        title=choose.choice(["", "Fox"]),
        metadata={"number": number, "version": version, "group": number % 4},
        parent_id=f"parent-{number % 8}",
    )


def annotated(stored: Document, note: str) -> Document:
    """The document with other metadata."""
    return replace(stored, metadata={**stored.metadata, "note": note})


@dataclass(frozen=True)
class Corpus:
    """The documents of a trial.

    Attributes:
        outputs: The embeddings by content (title and text).
    """

    outputs: dict[str, M3Output]

    @classmethod
    def encode(cls, encoder: M3Encoder) -> Corpus:
        """Encodes every version of every document; no two texts have vectors that could be taken for each other."""
        documents = [document(n, version) for version in range(VERSIONS) for n in range(STORED)]
        documents += [document(STORED + n) for n in range(STORED)]
        contents = list({each.content: None for each in documents})
        output = encoder.encode_documents(contents)
        assert output.dense is not None
        similarity = output.dense @ output.dense.T - 2 * np.eye(len(contents), dtype=np.float32)
        assert similarity.max() < 0.9999
        return cls(dict(zip(contents, output, strict=True)))

    @property
    def stored(self) -> list[Document]:
        """What is in the index before an operation."""
        return self.version(0)

    @property
    def new(self) -> list[Document]:
        return [document(STORED + n) for n in range(STORED)]

    def version(self, version: int) -> list[Document]:
        """A version of every stored document."""
        return [document(n, version) for n in range(STORED)]

    def embeddings(self, documents: Iterable[Document]) -> list[M3Output]:
        return [self.outputs[each.content] for each in documents]
