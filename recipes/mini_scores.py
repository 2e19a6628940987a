"""nDCG@10 of a model's heads and of their sums on a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import bm25s
import numpy as np
import Stemmer
import torch
from mini_data import Task, bm25
from numpy.typing import NDArray
from torch import Tensor

from m3plugins import M3Encoder
from m3plugins.encoding.batching import token_budget_batches
from m3plugins.encoding.tokenizing import Layout, TextTokenizer, load_tokenizer
from m3plugins.evaluation import measure
from m3plugins.training import LossOptions, M3Model, Representations, TokenBatch
from m3plugins.training.loss.scores import m3_scores

MAX_LENGTH, SHORTLIST = 256, 200
LUCENE_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
).split()
ROWS = {
    "dense": {"dense": 1.0},
    "sparse": {"sparse": 1.0},
    "multi-vector": {"multi_vector": 1.0},
    "D+S": {"dense": 1.0, "sparse": 0.3},
    "All": {"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0},
}


@torch.inference_mode()
def head_scores(model: M3Model, task: Task) -> dict[str, NDArray[np.float32]]:
    """Scores (queries, documents) of each head; a frozen model's state cache makes it cheap to repeat.

    The multi-vector head scores each query's best `SHORTLIST` documents by dense + 0.3 sparse, as the paper does; the
    others are at -inf.
    """
    model.eval()
    tokenizer, special = load_tokenizer(model.checkpoint.folder)
    reader, options = TextTokenizer(tokenizer, Layout(MAX_LENGTH)), LossOptions(special_ids=tuple(special.ids))

    def represented(texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], Representations]]:
        ids = reader.tokenize(list(texts))
        for rows in token_budget_batches(np.array([len(text.ids) for text in ids]), 16384):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield rows, model.represent(TokenBatch.of([ids[row] for row in rows], special.pad))

    shape = len(task.queries), len(task.documents)
    scores = {head: np.full(shape, -np.inf, np.float32) for head in model.heads}
    asked, query_tokens = list(represented(task.queries)), [torch.empty(0)] * shape[0]
    for rows, queries in asked:
        _keep(query_tokens, rows, queries)
    document_tokens = [torch.empty(0)] * shape[1]
    for document_rows, documents in represented(task.documents):
        _keep(document_tokens, document_rows, documents)
        for rows, queries in asked:
            pair = (replace(side, multi_vector=None) for side in (queries, documents))
            for head, block in m3_scores(*pair, options).items():
                if head in scores:
                    scores[head][np.ix_(rows, document_rows)] = block.numpy()
    first = sum(weight * scores[head] for head, weight in ROWS["D+S"].items() if head in scores)
    for row, best in enumerate(np.argpartition(-first, SHORTLIST, axis=1)[:, :SHORTLIST]):
        found = [document_tokens[document] for document in best]
        similarity = torch.cat(found) @ query_tokens[row].T
        lengths = torch.tensor([len(tokens) for tokens in found])
        scores["multi_vector"][row, best] = torch.segment_reduce(similarity, "max", lengths=lengths, axis=0).mean(1)
    return scores


def _keep(tokens: list[Tensor], rows: NDArray[np.int64], found: Representations) -> None:
    for row, vectors, mask in zip(rows, found.multi_vector.vectors, found.multi_vector.mask, strict=True):
        tokens[row] = vectors[mask].clone()


def bm25_scores(task: Task, encoder: M3Encoder) -> NDArray[np.float32]:
    """BM25 scores (queries, documents) over the model's word pieces."""
    engine = bm25(encoder, task.documents)
    return np.stack([engine.scores(query) for query in task.queries])


def stemmed_bm25_scores(task: Task) -> NDArray[np.float32]:
    """BM25 scores (queries, documents) over Porter stems, without Lucene's stop words."""
    options = {"stopwords": LUCENE_STOP_WORDS, "stemmer": Stemmer.Stemmer("porter"), "show_progress": False}
    engine = bm25s.BM25(k1=0.9, b=0.4)
    engine.index(bm25s.tokenize(task.documents, **options), show_progress=False)
    queries = bm25s.tokenize(task.queries, return_ids=False, **options)
    return np.stack([engine.get_scores(query) for query in queries])


def ndcg(scores: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """NDCG@10 of each query, (queries,)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    run = {str(number): [str(row) for row in rows] for number, rows in enumerate(best)}
    qrels = {str(number): {str(row): 1 for row in rows} for number, rows in enumerate(task.positives)}
    values = measure(run, qrels, ("nDCG@10",))["nDCG@10"].per_query
    return np.array([values[str(number)] for number in range(len(task.queries))])


def ndcg_of_rows(scores: Mapping[str, NDArray[np.float32]], task: Task) -> dict[str, NDArray[np.float64]]:
    """NDCG@10 of each query for every row of the paper's tables that the heads allow."""
    rows = {name: weights for name, weights in ROWS.items() if set(weights) <= set(scores)}
    return {name: ndcg(sum(w * scores[head] for head, w in weights.items()), task) for name, weights in rows.items()}
