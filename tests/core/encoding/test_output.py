"""Columnar results: slices, joins, conversions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import M3Encoder, M3Output, SparseEmbeddings
from m3plugins.encoding.assembling import max_per_token
from m3plugins.encoding.batching import token_budget_batches
from tests.tiny import SENTENCES

ROWS = st.lists(st.dictionaries(st.integers(0, 20), st.floats(0, 10, width=32), max_size=8), max_size=6)


@given(ROWS)
def test_sparse_dictionaries_survive_the_round_trip_without_zeros(rows):
    sparse = SparseEmbeddings.from_dicts(rows, vocab_size=21)
    assert [row.to_dict() for row in sparse] == [
        {token: weight for token, weight in sorted(row.items()) if weight > 0} for row in rows
    ]
    assert len(sparse) == len(rows)


@given(ROWS)
def test_scipy_matrix_holds_the_same_weights(rows):
    sparse = SparseEmbeddings.from_dicts(rows, vocab_size=21)
    expected = np.zeros((len(rows), 21), np.float32)
    for i, row in enumerate(rows):
        for token, weight in row.items():
            expected[i, token] = weight
    assert sparse.to_scipy().toarray().tolist() == expected.tolist()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1, width=32)), max_size=12), min_size=1, max_size=5)
)
def test_sparse_weight_is_the_maximum_over_a_tokens_places(texts):
    rows = np.array([i for i, text in enumerate(texts) for _ in text], np.int64)
    ids = np.array([token for text in texts for token, _ in text], np.int32)
    weights = np.array([weight for text in texts for _, weight in text], np.float32)
    sparse = max_per_token(rows, ids, weights, n=len(texts), vocab_size=10)
    for text, vector in zip(texts, sparse, strict=True):
        best: dict[int, float] = {}
        for token, weight in text:
            best[token] = max(best.get(token, 0.0), weight)
        assert vector.to_dict() == {token: weight for token, weight in best.items() if weight > 0}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 600))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    batches = token_budget_batches(lengths, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@pytest.fixture(scope="module")
def output(encoder: M3Encoder) -> M3Output:
    return encoder.encode_documents(SENTENCES)


def test_slices_are_outputs(output: M3Output):
    part = output[3:7]
    assert isinstance(part, M3Output)
    assert len(part) == 4
    assert part.dense.tolist() == output.dense[3:7].tolist()
    assert part.sparse[0].to_dict() == output.sparse[3].to_dict()
    assert part.multi_vector[3].tolist() == output.multi_vector[6].tolist()
    assert output[-1].token_counts.tolist() == [output.token_counts[-1]]


def test_rows_joined_again_are_the_whole(output: M3Output):
    assert M3Output.concatenate(list(output)).digest() == output.digest()
    assert output[1:].digest() != output.digest()


def test_an_index_out_of_range_is_an_error(output: M3Output):
    for rows in (output, output.sparse, output.multi_vector):
        with pytest.raises(IndexError):
            rows[len(SENTENCES)]


def test_select_keeps_only_the_heads_asked_for(output: M3Output):
    assert output.select(["dense"]).heads == ("dense",)
    with pytest.raises(ValueError, match="encode again with"):
        output.select(["dense"]).select(["sparse"])


def test_sparse_dictionaries_are_plain_python(output: M3Output):
    token, weight = next(iter(output.sparse[0].to_dict().items()))
    assert (type(token), type(weight)) == (int, float)
