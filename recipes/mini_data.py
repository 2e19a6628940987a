"""Data that m3-mini is trained on and judged by: tasks made of collections in the BEIR layout."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from m3plugins import M3Encoder
from m3plugins.evaluation import Dataset
from m3plugins.indexing.corpus import read_corpus
from m3plugins.training import Example

SEED = 20
LABELLED = {"squad_cs224n": "train", "selqa": "train", "clapnq": "test", "fairytaleqa": "train"}
UNLABELLED = "pool_2wiki"
MOST_QUESTIONS = 4858
DEVELOPMENT = {"fairytaleqa": "dev", "selqa": "test"}
NEGATIVES, TOO_CLOSE = 20, 0.95  # kept per query and miner; none above this share of the positive's score

_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z\"'“])")


@dataclass(frozen=True)
class Task:
    """Queries over documents; `positives[i]` are the rows of the documents relevant to query i."""

    name: str
    queries: list[str]
    documents: list[str]
    positives: list[list[int]]

    def first(self, queries: int) -> Task:
        """The task with its first queries only."""
        return Task(self.name, self.queries[:queries], self.documents, self.positives[:queries])

    def among(self, documents: int) -> Task:
        """The task over this many documents: the relevant ones, and others by chance."""
        relevant = set(chain.from_iterable(self.positives))
        others = [row for row in range(len(self.documents)) if row not in relevant]
        random.Random(SEED).shuffle(others)
        kept = sorted([*relevant, *others[: max(0, documents - len(relevant))]])
        place = {row: position for position, row in enumerate(kept)}
        positives = [[place[row] for row in rows] for rows in self.positives]
        return Task(self.name, self.queries, [self.documents[row] for row in kept], positives)


def read_task(data: Path, name: str, split: str) -> Task:
    """Reads a split of a collection."""
    dataset = Dataset.load(data / name, split)
    documents = list(dataset.documents())
    rows = {document.id: row for row, document in enumerate(documents)}
    positives = {
        query: [rows[document] for document, relevance in judged.items() if relevance > 0]
        for query, judged in dataset.qrels.items()
    }
    asked = [query for query, found in positives.items() if found]
    texts = [document.content for document in documents]
    return Task(name, [dataset.queries[query] for query in asked], texts, [positives[query] for query in asked])


def training_examples(data: Path, encoder: M3Encoder) -> Iterator[tuple[str, list[Example]]]:
    """Makes examples by source: questions, and titles and sentences of passages that have none."""
    for name, split in LABELLED.items():
        yield name, examples(read_task(data, name, split).first(MOST_QUESTIONS), encoder)
    yield UNLABELLED, examples(titles_and_sentences(data / UNLABELLED), encoder)


def titles_and_sentences(folder: Path) -> Task:
    """Passages without questions as a task: find one by its title, or by a sentence cut out of it, in turns."""
    chance = random.Random(SEED)
    queries: list[str] = []
    documents: list[str] = []
    for row, passage in enumerate(read_corpus(folder / "corpus.jsonl")):
        sentences = _SENTENCE.split(passage.text)
        if row % 2 and len(sentences) > 1:
            queries.append(sentences.pop(chance.randrange(len(sentences))))
            documents.append(f"{passage.title}\n{' '.join(sentences)}")
        else:
            queries.append(passage.title)
            documents.append(passage.text)
    return Task(folder.name, queries, documents, [[row] for row in range(len(queries))])


def examples(task: Task, encoder: M3Encoder) -> list[Example]:
    """The task's queries with hard negatives, the best by the dense head and by BM25 over word pieces.

    They come from the positives of the other queries, so that documents of another split stay unseen.
    """
    known = sorted(set(chain.from_iterable(task.positives)))
    place = {row: position for position, row in enumerate(known)}
    documents = [task.documents[row] for row in known]
    found = encoder.encode_documents(documents, heads=("dense",)).dense
    asked = encoder.encode_queries(task.queries, heads=("dense",)).dense
    lexical = bm25(encoder, documents)
    made = []
    for query, vector, positives in zip(task.queries, asked, task.positives, strict=True):
        own = [place[row] for row in positives]
        hard = dict.fromkeys([*_hardest(found @ vector, own), *_hardest(lexical.scores(query), own)])
        negatives = tuple(documents[position] for position in hard)
        made.append(Example(query, tuple(task.documents[row] for row in positives), negatives))
    return made


def _hardest(scores: NDArray[np.float32], positives: Sequence[int]) -> list[int]:
    limit = TOO_CLOSE * scores[list(positives)].min()
    allowed = np.where(scores > limit, -np.inf, scores)
    allowed[list(positives)] = -np.inf
    best = np.argsort(-allowed)[:NEGATIVES]
    return [int(position) for position in best if np.isfinite(allowed[position])]


class bm25:
    """BM25 over a model's word pieces, k1 0.9 and b 0.4: neither stems nor stop words."""

    def __init__(self, encoder: M3Encoder, documents: Sequence[str]) -> None:
        self._encoder = encoder
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        self._index.index([self._pieces(text) for text in documents], show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Scores all documents, (n,)."""
        scores: NDArray[np.float32] = self._index.get_scores(self._pieces(query))
        return scores

    def _pieces(self, text: str) -> list[str]:
        return self._encoder.tokenizer.encode(text, add_special_tokens=False).tokens
