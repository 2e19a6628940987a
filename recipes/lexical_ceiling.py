"""The ceiling of word pieces without the statistics of the collection: what BM25 loses, piece by piece.

    python recipes/lexical_ceiling.py DIR/scifact DIR/cacm --data DIR

M3's sparse head weighs a token by its context, once a text: it knows neither how rare a word is in the collection that
is searched nor, but for what the context says, how often it occurs. Each row takes one of these from BM25 (k1 0.9, b
0.4): the collection's own idf in favour of that of the training texts, term frequency and length. Texts cut at 256.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import numpy as np
import scipy.sparse
from mini_data import read_task
from mini_scores import MAX_LENGTH, ndcg
from numpy.typing import NDArray
from tokenizers import Tokenizer
from train_m3_mini import training_set

from m3plugins import M3Encoder

K1, B = 0.9, 0.4


def counts(tokenizer: Tokenizer, texts: list[str]) -> scipy.sparse.csr_array:
    """Counts each word piece in each text, (texts, vocabulary)."""
    ids = [encoding.ids[: MAX_LENGTH - 2] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    columns = np.fromiter(chain.from_iterable(ids), np.int64)
    shape = len(texts), tokenizer.get_vocab_size()
    return scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def inverse_document_frequency(terms: scipy.sparse.csr_array) -> NDArray[np.float64]:
    """Lucene's idf of every word piece."""
    frequency = np.bincount(terms.indices, minlength=terms.shape[1])
    return np.log(1 + (terms.shape[0] - frequency + 0.5) / (frequency + 0.5))


def saturated(terms: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """BM25's term frequencies: saturated, and discounted by length."""
    length = terms.sum(axis=1)
    norm = K1 * (1 - B + B * length / length.mean())
    return terms._with_data(terms.data * (K1 + 1) / (terms.data + np.repeat(norm, np.diff(terms.indptr))))


def binary(terms: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Reduces counts to whether each word piece occurs."""
    return terms._with_data(np.ones_like(terms.data))


def main() -> None:
    """Print nDCG@10 of BM25 and of what is left of it."""
    parser = argparse.ArgumentParser(description="Judge word pieces without the statistics of the collection.")
    parser.add_argument("collections", type=Path, nargs="+", help="folders in the BEIR layout, judged on `test`")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training collections")
    parser.add_argument("--work", type=Path, default=Path("m3-mini-work"), help="as in train_m3_mini.py")
    arguments = parser.parse_args()

    tokenizer = M3Encoder.from_pretrained("m3-mini").tokenizer
    trained_on = training_set(arguments.data, arguments.work)
    passages = dict.fromkeys(trained_on[row].positives[0] for row in range(len(trained_on)))
    foreign = inverse_document_frequency(counts(tokenizer, list(passages)))

    found: dict[str, list[float]] = {}
    for folder in arguments.collections:
        task = read_task(folder.parent, folder.name, "test")
        documents, queries = counts(tokenizer, task.documents), counts(tokenizer, task.queries)
        own = inverse_document_frequency(documents)
        for name, idf in {"the collection's idf": own, "the training texts' idf": foreign}.items():
            for label, left, right in (
                ("BM25", queries, saturated(documents)),
                ("binary", binary(queries), binary(documents)),
            ):
                scores = (left @ (right * idf).T).toarray().astype(np.float32)
                found.setdefault(f"{label}, {name}", []).append(float(ndcg(scores, task).mean()))
    names = [folder.name for folder in arguments.collections]
    print(f"| nDCG@10 | {' | '.join(names)} | mean |\n|---|{'---|' * (len(names) + 1)}")
    for name, values in found.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in [*values, float(np.mean(values))])} |")


if __name__ == "__main__":
    main()
