"""Scores against the definitions, written out in loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import M3Encoder, MultiVectorEmbeddings, SparseEmbeddings
from m3plugins.scoring import dense_scores, head_scores, multi_vector_scores, sparse_scores
from m3plugins.scoring.multi_vector import mean_of_maxima
from m3plugins.scoring.products import dot_products
from tests.tiny import SENTENCES

SPARSE = st.lists(st.dictionaries(st.integers(0, 12), st.floats(0.0625, 4, width=32), max_size=6), max_size=5)
LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=9)


def ragged(lengths: list[int], seed: int, dim: int = 4) -> MultiVectorEmbeddings:
    vectors = np.random.default_rng(seed).normal(size=(sum(lengths), dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return MultiVectorEmbeddings(np.cumsum([0, *lengths]), vectors)


@given(SPARSE, SPARSE)
def test_sparse_score_is_the_sum_over_shared_tokens(queries, documents):
    scores = sparse_scores(
        SparseEmbeddings.from_dicts(queries, vocab_size=13), SparseEmbeddings.from_dicts(documents, vocab_size=13)
    )
    expected = [
        [sum(query[t] * document[t] for t in query.keys() & document.keys()) for document in documents]
        for query in queries
    ]
    np.testing.assert_allclose(scores, np.array(expected, np.float32).reshape(scores.shape), rtol=1e-5)


@given(LENGTHS, LENGTHS, st.integers(1, 12), st.integers(0, 99))
def test_multi_vector_score_is_the_mean_of_maxima_whatever_the_chunk(query_lengths, document_lengths, chunk, seed):
    queries, documents = ragged(query_lengths, seed), ragged(document_lengths, seed + 1)
    scores = multi_vector_scores(queries, documents, max_tokens=chunk)
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            if not len(query):
                expected = 0.0
            elif not len(document):
                expected = -np.inf
            else:
                expected = np.mean([max(q @ d for d in document) for q in query])
            assert scores[i, j] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("tokens", "queries"), [(0, 3), (3, 0), (1, 1), (70, 5), (200, 40), (40, 100)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_dot_products_do_not_depend_on_the_tiles(tokens, queries, dtype):
    rng = np.random.default_rng(0)
    some, query = rng.integers(-9, 9, (tokens, 1024)).astype(dtype), rng.integers(-9, 9, (queries, 1024))
    expected = some.astype(np.int64) @ query.T  # whole numbers: exact in float32
    np.testing.assert_array_equal(dot_products(some, query.astype(np.float32)), expected)


def test_a_query_or_a_document_without_a_token_scores_as_in_multi_vector_scores():
    assert mean_of_maxima(np.zeros((0, 2), np.float32)) == -np.inf
    assert mean_of_maxima(np.zeros((2, 0), np.float32)) == mean_of_maxima(np.zeros((0, 0), np.float32)) == 0.0


def test_padding_cannot_win_a_maximum():
    query = MultiVectorEmbeddings.from_list([np.array([[1.0, 0.0]])])
    opposite = MultiVectorEmbeddings.from_list([np.array([[-1.0, 0.0]]), np.array([[-1.0, 0.0]] * 5)])
    assert multi_vector_scores(query, opposite).tolist() == [[-1.0, -1.0]]


def test_head_scores_score_the_heads_that_both_sides_have(encoder: M3Encoder):
    query = encoder.encode_queries(["a quick fox"])
    documents = encoder.encode_documents(SENTENCES[:3])
    both = head_scores(query.select(["dense", "sparse"]), documents)
    assert [score.multi_vector for score in both] == [None] * 3
    assert both[0].dense == pytest.approx(float(query.dense[0] @ documents.dense[0]), abs=1e-6)
    with pytest.raises(ValueError, match="query must hold one text"):
        head_scores(documents, documents)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dense_scores(np.ones((1, 2)), np.ones((1, 3))), r"got \(1, 2\) and \(1, 3\)"),
        (lambda: multi_vector_scores(ragged([1], 0, dim=2), ragged([1], 0, dim=3)), "one width, got 2 and 3"),
        (lambda: multi_vector_scores(ragged([1], 0), ragged([1], 0), max_tokens=0), "max_tokens must be a positive"),
    ],
)
def test_mismatched_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
