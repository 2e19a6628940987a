"""What Elasticsearch keeps of embeddings: the nearest weights that it can, and every other bit."""

from dataclasses import replace

import numpy as np
import orjson
import pybase64
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins.compression import CODECS
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import HEADS, M3Output
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.indexing.document import Digest
from m3plugins_elasticsearch.rows import (
    _packed,
    _unpacked,
    check_document,
    digest_fields,
    our_fields,
    own_fields,
    rounded,
    stored_again,
    to_output,
    token_bytes,
    token_weights,
)

TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
weights = st.floats(TINY, LARGEST, width=32)


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def neighbours(value: float) -> tuple[float, float]:
    """The two values with 9 significant bits around one."""
    below = bits(value) & ~0x7FFF
    return tuple(float(np.uint32(b).view(np.float32)) for b in (below, min(below + 0x8000, 0x7F7F8000)))


# Token weights


@given(weights)
@example(TINY)
@example(LARGEST)
@example(1.0)
def test_a_rounded_weight_is_the_nearest_with_9_significant_bits(value):
    (kept,) = rounded(np.array([value], np.float32)).tolist()
    below, above = neighbours(value)
    assert kept in (below, above)
    assert abs(kept - value) == min(abs(below - value), abs(above - value))
    assert bits(kept) & 0x7FFF == 0


@given(st.lists(weights, max_size=20))
def test_rounding_is_off_by_at_most_a_512th_and_done_once(values):
    array = np.array(values, np.float32)
    once = rounded(array)
    assert once.dtype == np.float32 and once.shape == array.shape and np.isfinite(once).all()
    exact = array.astype(np.float64)
    near = exact < 0.99 * LARGEST  # the next weight above the largest is infinity, so there it is cut off
    assert (np.abs(once - exact) <= exact / np.where(near, 512, 256)).all()
    np.testing.assert_array_equal(rounded(once), once)


def test_the_error_is_half_of_what_elasticsearch_makes_by_cutting_off():
    values = np.random.default_rng(0).uniform(0.001, 2, 100_000).astype(np.float32)
    cut = (values.view(np.uint32) & np.uint32(0xFFFF8000)).view(np.float32)
    ours, theirs = np.abs(rounded(values) - values) / values, np.abs(cut - values) / values
    assert ours.max() < 0.00196 < 0.0035 < theirs.max() < 0.0040
    assert ours.mean() < 0.6 * theirs.mean()
    assert abs((rounded(values) - values).sum()) < 0.01 * (values - cut).sum()  # no score is too low on the whole


@pytest.fixture(scope="module")
def one_token(encoder):
    fox = encoder.encode_documents(["fox"])
    return lambda pairs: replace(fox, sparse=SparseEmbeddings.from_dicts([pairs], vocab_size=encoder.vocab_size))


def test_what_is_stored_is_exactly_what_elasticsearch_scores_with(scratch, one_token):
    """A query of weight 1 gets a document's own weight as its score: bit for bit what we say is stored."""
    chosen = np.random.default_rng(1).uniform(1e-4, 3, 300).astype(np.float32)
    chosen[:6] = [TINY, 1e-30, 0.1, 1.0, 255.999, 1e30]
    ids = [str(number) for number in range(len(chosen))]
    rows = M3Output.concatenate([one_token({7: value}) for value in chosen.tolist()])
    scratch.upsert([Document(id=i, text=i) for i in ids], embeddings=rows)
    query = one_token({7: 1.0}).select(["sparse"])
    kept = {i: output.sparse[0].to_dict()[7] for i, output in scratch.embeddings(ids, ("sparse",)).items()}
    scores = {i: score.sparse for i, score in scratch.score(query, ids).items()}
    found = {hit.id: hit.score for hit in scratch.candidates(query, 300)["sparse"]}
    assert kept == dict(zip(ids, rounded(chosen).tolist(), strict=True))
    assert {i: np.float32(score) for i, score in scores.items()} == {i: np.float32(value) for i, value in kept.items()}
    assert found == scores
    scratch.delete(ids)


def test_a_query_keeps_the_weights_that_it_has():
    vector = SparseEmbeddings.from_dicts([{3: 0.1, 5: 1e-39, 9: 2.5}], vocab_size=10)[0]
    assert token_weights(vector) == {"3": float(np.float32(0.1)), "9": 2.5}


# Packing


rows = st.dictionaries(st.integers(0, 250_001), weights, max_size=30)


@given(rows)
def test_token_ids_and_weights_are_packed_and_unpacked(pairs):
    vector = SparseEmbeddings.from_dicts([pairs], vocab_size=250_002)[0]
    data = _packed(vector.indices, vector.values)
    assert len(data) == 8 * len(vector)
    indices, values = _unpacked({"sparse_weights": [pybase64.b64encode(data).decode()]} if data else {})
    np.testing.assert_array_equal(indices, vector.indices)
    np.testing.assert_array_equal(values, vector.values)


unit = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4).filter(lambda v: np.linalg.norm(v) > 0.1)


def output(dense, pairs, vectors, count, cut):
    norm = np.array([dense], np.float32) / np.linalg.norm(dense)
    return M3Output(
        dense=norm.astype(np.float32),
        sparse=SparseEmbeddings.from_dicts([pairs], vocab_size=250_002),
        multi_vector=MultiVectorEmbeddings.from_list([np.array(vectors, np.float32)]),
        token_counts=np.array([count], np.int32),
        truncated=np.array([cut]),
    )


def as_stored(fields):
    """As doc values come back: each in a list, without empty bytes."""
    counts = {name: fields[name] for name in ("token_count", "truncated")}
    packed = {name: fields[name] for name in ("sparse_weights", "token_vectors") if fields[name]}
    return {name: [value] for name, value in {**counts, **packed, "dense": fields["dense"].tolist()}.items()}


@settings(deadline=None)
@given(
    unit,
    rows,
    st.lists(unit, min_size=1, max_size=5),
    st.integers(0, 8192),
    st.booleans(),
    st.sampled_from(sorted(CODECS)),
)
def test_embeddings_come_back_from_what_is_stored(dense, pairs, vectors, count, cut, codec):
    given_ = output(dense, pairs, vectors, count, cut)
    fields = our_fields(Document(id="a", text="x"), Digest("c", "a"), given_, codec)
    back = to_output([as_stored(fields)] * 2, HEADS, codec, 250_002, 4)
    np.testing.assert_array_equal(back.dense, np.repeat(given_.dense, 2, axis=0))
    expected = dict(zip(given_.sparse[0].indices.tolist(), rounded(given_.sparse[0].values).tolist(), strict=True))
    assert back.sparse[0].to_dict() == back.sparse[1].to_dict() == expected
    assert fields["sparse"] == {str(token): weight for token, weight in expected.items()}
    assert back.multi_vector[0].shape == (len(vectors), 4)
    assert (back.token_counts.tolist(), back.truncated.tolist()) == ([count] * 2, [cut] * 2)


@settings(deadline=None)
@given(unit, rows, st.lists(unit, min_size=1, max_size=3), st.sampled_from(sorted(CODECS)))
def test_what_is_stored_again_is_what_was_stored(dense, pairs, vectors, codec):
    fields = our_fields(Document(id="a", text="x"), Digest("c", "a"), output(dense, pairs, vectors, 3, True), codec)
    again = stored_again(as_stored(fields))
    for name, value in again.items():
        assert value == (fields[name].tolist() if name == "dense" else fields[name])
    assert again.keys() == fields.keys() - {"id", "revision", "attributes", "facets"}
    assert token_bytes(as_stored(fields)) == pybase64.b64decode(fields["token_vectors"])


# Documents


def test_what_a_document_is_compared_and_found_by():
    document = Document(id="a", text="x", metadata={"n": 1})
    fields = digest_fields(document, document.digest())
    assert (fields["revision"], fields["attributes"]) == tuple(document.digest())
    assert len(fields["facets"]) == 2


def test_metadata_are_sent_as_python_writes_them():
    """orjson refuses integers beyond 64 bits, and writes no number otherwise."""
    fields = own_fields(Document(id="a", text="x", metadata={"n": [2**64 - 1, -0.0, 1e22], "é": "\u2028"}))
    assert orjson.dumps(fields["metadata"]).decode() == '{"n": [18446744073709551615, -0.0, 1e+22], "é": "\u2028"}'


@pytest.mark.parametrize("value", [True, False, 0, -(2**63), 2**64 - 1, 1e300, None, "x" * 100_000, [[[]]], {}])
def test_what_fits_is_accepted(value):
    check_document(Document(id="é" * 256, text="", parent_id="x" * 512, metadata={"k" * 4000: {"a": [value]}}))
