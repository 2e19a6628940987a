"""Codecs: what comes back, how large it is, how far it is off."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m3plugins.compression import CODECS, get_codec

VECTORS = st.integers(1, 40).flatmap(
    lambda dim: arrays(np.float32, st.tuples(st.integers(0, 9), st.just(dim)), elements=st.floats(-1, 1, width=32))
)


@pytest.mark.parametrize("name", CODECS)
@given(vectors=VECTORS)
def test_size_and_shape_are_as_stated(name, vectors):
    codec, dim = get_codec(name), vectors.shape[1]
    data = codec.encode(vectors)
    assert len(data) == len(vectors) * codec.bytes_per_token(dim)
    decoded = codec.decode(data, dim)
    assert decoded.shape == vectors.shape
    assert decoded.dtype == np.float32


@pytest.mark.parametrize("name", CODECS)
@given(vectors=VECTORS)
def test_tokens_can_be_cut_apart_and_joined(name, vectors):
    codec, dim = get_codec(name), vectors.shape[1]
    pieces = b"".join(codec.encode(vectors[i : i + 1]) for i in range(len(vectors)))
    assert pieces == codec.encode(vectors)
    assert codec.decode(pieces, dim).tobytes() == codec.decode(codec.encode(vectors), dim).tobytes()


@pytest.mark.parametrize("name", CODECS)
@given(vectors=VECTORS, queries=st.integers(0, 70), seed=st.integers(0, 9))
def test_products_are_those_of_the_decoded_vectors(name, vectors, queries, seed):
    codec, dim = get_codec(name), vectors.shape[1]
    query = np.random.default_rng(seed).normal(size=(queries, dim)).astype(np.float32)
    data = codec.encode(vectors)
    products = codec.products(data, query)
    assert products.dtype == np.float32
    np.testing.assert_allclose(products, codec.decode(data, dim) @ query.T, atol=1e-5 * max(dim, 1))


@given(VECTORS)
def test_float16_is_within_half_a_unit_in_the_last_place(vectors):
    decoded = CODECS["float16"].decode(CODECS["float16"].encode(vectors), vectors.shape[1])
    assert (np.abs(decoded - vectors) <= np.maximum(np.abs(vectors) * 2**-11, 2**-25)).all()


@given(VECTORS)
@example(np.array([[0.00585938, 0.00390625]], np.float32))  # half a step off, where the scale is a subnormal float16
@example(np.array([[3.0e-8, 0]], np.float32))  # the scale is rounded to zero
def test_int8_is_within_half_a_step_and_the_rounding_of_its_scale(vectors):
    decoded = CODECS["int8"].decode(CODECS["int8"].encode(vectors), vectors.shape[1]).astype(np.float64)
    step = np.abs(vectors.astype(np.float64)).max(axis=1, initial=0, keepdims=True) / 127
    rounding = np.maximum(step * 2**-11, 2**-25)  # of the scale, to float16
    bound = np.maximum((step + rounding) / 2, 127 * rounding)  # the second: of the largest component, level 127
    assert (np.abs(decoded - vectors) <= bound * 1.0001).all()  # float32 divides and multiplies


@given(VECTORS)
def test_binary_keeps_signs_and_unit_length(vectors):
    decoded = CODECS["binary"].decode(CODECS["binary"].encode(vectors), vectors.shape[1])
    assert ((decoded > 0) == (vectors >= 0)).all()
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="codec must be one of float16, int8, binary, got 'pq'"):
        get_codec("pq")
    for codec in CODECS.values():
        with pytest.raises(ValueError, match="must be finite"):
            codec.encode(np.array([[np.nan, 0]], np.float32))
        with pytest.raises(ValueError, match="shape"):
            codec.encode(np.zeros(3, np.float32))
        with pytest.raises(ValueError, match="codec or width is wrong"):
            codec.decode(b"xxx", 32)
        with pytest.raises(ValueError, match="codec or width is wrong"):
            codec.products(b"xxx", np.zeros((1, 32), np.float32))
