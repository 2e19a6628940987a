"""What m3-mini is trained on and judged by: tasks made of collections in the BEIR layout."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from m3plugins import M3Encoder
from m3plugins.evaluation import Dataset
from m3plugins.retrieval.corpus import read_corpus
from m3plugins.training import Example

SEED = 20
LABELLED = {"squad_cs224n": "train", "selqa": "train", "clapnq": "test", "fairytaleqa": "train"}
UNLABELLED = "pool_2wiki"
MOST_QUESTIONS, MOST_CUTTINGS = 4858, 7000
DEVELOPMENT = {"fairytaleqa": "dev", "selqa": "test"}
NEGATIVES, TOO_CLOSE = 20, 0.95  # kept per query and miner; none above this share of the positive's score

_SENTENCE = re.compile(r"(?<=[.!?]) +(?=[A-Z\"'“])")
_REQUESTS = (  # how people word a request; {q} is the question, {l} the same with a small first letter
    "I am looking for passages that answer the following question. {q} Anything relevant would be useful to me.",
    "{q} I am interested in any text which describes this in some detail, and not in texts that only mention it.",
    "Can you help me find out more about this? {q} Descriptions, explanations and examples are all welcome.",
    "What has been written about the following: {q} Please include everything that is known about it.",
    "Information on the question of {l}, including background material and related work, is wanted.",
    "I need to know {l} I would also like to see other material dealing with similar topics.",
    "Documents relating to this subject: {l} Relevant articles will contain facts, results or discussion of it.",
    "We would like some references concerning {l} as well as general treatments of the topic.",
    "The purpose of this search is to learn {l} A relevant paper should discuss the matter directly.",
)


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
    """One split of a collection."""
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
    """By source: questions as they are and as wordy requests; titles and sentences of passages; longer cuttings."""
    passages = {UNLABELLED: list(_passages(data / UNLABELLED))}
    for name, split in LABELLED.items():
        task = read_task(data, name, split).first(MOST_QUESTIONS)
        asked = examples(task, encoder)
        yield name, asked
        yield f"{name}_requests", as_requests(asked)
        passages[name] = [task.documents[row] for row in sorted(set(chain.from_iterable(task.positives)))]
    yield UNLABELLED, examples(titles_and_sentences(data / UNLABELLED), encoder)
    yield "cuttings", examples(cuttings(chain.from_iterable(passages.values())), encoder)


def as_requests(asked: Sequence[Example]) -> list[Example]:
    """The same questions, each inside a request of one or two sentences: most words of it say nothing."""
    chance, worded = random.Random(SEED), []
    for example in asked:
        question = example.query.strip()
        query = chance.choice(_REQUESTS).format(q=question, l=question[:1].lower() + question[1:])
        worded.append(replace(example, query=query))
    return worded


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


def cuttings(passages: Iterable[str]) -> Task:
    """Find what is left of a passage by one to three sentences cut out of it: queries of many words."""
    chance = random.Random(SEED)
    pairs = []
    for passage in passages:
        sentences = _SENTENCE.split(passage)
        length = min(chance.choice((1, 1, 2, 2, 3)), len(sentences) - 1)
        start = chance.randrange(len(sentences) - length + 1)
        query, rest = sentences[start : start + length], sentences[:start] + sentences[start + length :]
        if len(" ".join(query).split()) in range(5, 91) and len(" ".join(rest).split()) >= 15:
            pairs.append((" ".join(query), " ".join(rest)))
    chance.shuffle(pairs)
    queries, documents = zip(*pairs[:MOST_CUTTINGS], strict=True)
    return Task("cuttings", list(queries), list(documents), [[row] for row in range(len(queries))])


def _passages(folder: Path) -> Iterator[str]:
    for document in read_corpus(folder / "corpus.jsonl"):
        yield document.text


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


class bm25:  # noqa: N801
    """BM25 over a model's word pieces, k1 0.9 and b 0.4: neither stems nor stop words."""

    def __init__(self, encoder: M3Encoder, documents: Sequence[str]) -> None:
        self._encoder = encoder
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        self._index.index([self._pieces(text) for text in documents], show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Of all documents, (n,)."""
        scores: NDArray[np.float32] = self._index.get_scores(self._pieces(query))
        return scores

    def _pieces(self, text: str) -> list[str]:
        return self._encoder.tokenizer.encode(text, add_special_tokens=False).tokens
