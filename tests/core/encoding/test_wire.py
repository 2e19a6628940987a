"""Embeddings on the wire: what comes back is what went, to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins.encoding import HEADS
from m3plugins.encoding.wire import from_bytes, to_bytes
from tests.tiny import SENTENCES


@pytest.mark.parametrize("heads", [HEADS, *((head,) for head in HEADS)])
@pytest.mark.parametrize("texts", [[], [""], SENTENCES])
def test_what_comes_back_is_what_went(encoder, texts, heads):
    output = encoder.encode_documents(texts, heads=heads)
    back = from_bytes(to_bytes(output))
    assert back.heads == output.heads and len(back) == len(output)
    assert back.digest() == output.digest()
    assert back.sparse is None or back.sparse.vocab_size == output.sparse.vocab_size


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError, match="no embeddings of m3plugins"):
        from_bytes(data)


def test_a_file_that_was_cut_or_lacks_an_array_is_refused(encoder):
    from safetensors.numpy import save

    whole = to_bytes(encoder.encode_documents(SENTENCES[:2]))
    for data in (whole[:-1], whole[: len(whole) // 2], save({"dense": np.zeros((1, 2), np.float32)})):
        with pytest.raises(ValueError, match="no embeddings of m3plugins"):
            from_bytes(data)
