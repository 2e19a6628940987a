"""Documents in several versions, and the embeddings of each text, made once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from m3plugins import Document, M3Encoder, M3Output
from m3plugins.encoding import Passages
from m3plugins.indexing.passages import split
from tests.tiny import SENTENCES

WORDS = " ".join(SENTENCES).split()
STORED = 32
"""Documents in the index before an operation; as many again are new to it."""
VERSIONS = 4
LONG = 70_000
"""Characters of a long text: it continues in text blocks (65,535 bytes a row)."""
MAX_LENGTH = 1536
"""Tokens: a long text's token vectors take two blocks (1,445 of width 32 in 8 bit)."""
CUT = Passages(size=40, overlap=8)

Allowed = Mapping[str, Sequence[Document | None]]
"""The versions of each id that may be stored; None: it may be gone."""


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


def chapters(number: int, version: int = 0) -> Document:
    """A version of a document of one passage or several."""
    choose = random.Random(f"chapters {number}/{version}")
    return Document(
        id=f"doc-{number}",
        text=" ".join(choose.choices(WORDS, k=choose.randint(5, 120))),
        metadata={"number": number, "version": version, "group": number % 4},
    )


def annotated(stored: Document, note: str) -> Document:
    """The document with other metadata."""
    return replace(stored, metadata={**stored.metadata, "note": note})


@dataclass(frozen=True)
class Corpus:
    """The documents of a trial.

    Attributes:
        outputs: The embeddings by content (title and text).
        pieces: Where the index has passages, the ends of each text's; None where it has none.
    """

    outputs: dict[str, M3Output]
    pieces: dict[str, list[str]] | None = None

    @classmethod
    def encode(cls, encoder: M3Encoder, *, cut: bool = False) -> Corpus:
        """Encodes every version of every document; no two texts have vectors that could be taken for each other."""
        make = chapters if cut else document
        documents = [make(n, version) for version in range(VERSIONS) for n in range(STORED)]
        documents += [make(STORED + n) for n in range(STORED)]
        pieces = {each.text: [piece.text for piece in split(each, CUT, encoder)] for each in documents} if cut else None
        texts = (
            [each.content for each in documents] if pieces is None else [t for some in pieces.values() for t in some]
        )
        contents = list(dict.fromkeys(texts))
        output = encoder.encode_documents(contents)
        assert output.dense is not None
        similarity = output.dense @ output.dense.T - 2 * np.eye(len(contents), dtype=np.float32)
        assert cut or similarity.max() < 0.9999
        return cls(dict(zip(contents, output, strict=True)), pieces)

    @property
    def stored(self) -> list[Document]:
        """What is in the index before an operation."""
        return self.version(0)

    @property
    def new(self) -> list[Document]:
        return [self._make(STORED + n) for n in range(STORED)]

    def version(self, version: int) -> list[Document]:
        """A version of every stored document."""
        return [self._make(n, version) for n in range(STORED)]

    def embeddings(self, documents: Iterable[Document]) -> list[M3Output] | None:
        """None where the index encodes the passages itself."""
        return None if self.pieces is not None else [self.outputs[each.content] for each in documents]

    def rows(self, allowed: Allowed, known: Allowed) -> tuple[Allowed, Allowed]:
        """The same of what is stored: passages, where the index has some."""
        if self.pieces is None:
            return allowed, known
        there = self._passages(known)
        return {**{i: [None] for i in there}, **self._passages(allowed)}, there

    def _passages(self, versions: Allowed) -> dict[str, list[Document | None]]:
        found: dict[str, list[Document | None]] = {}
        for i, some in versions.items():
            cut = [self._cut(each) if each else [] for each in some]
            found |= {f"{i}#{n}": list(column) for n, column in enumerate(zip_longest(*cut))}
        return found

    def _cut(self, whole: Document) -> list[Document]:
        assert self.pieces is not None
        return [
            replace(whole, id=f"{whole.id}#{n}", text=text, parent_id=whole.id)
            for n, text in enumerate(self.pieces[whole.text])
        ]

    def _make(self, number: int, version: int = 0) -> Document:
        return document(number, version) if self.pieces is None else chapters(number, version)
