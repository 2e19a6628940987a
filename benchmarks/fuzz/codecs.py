"""Fuzzing of token vectors' bytes: a codec decodes any number of whole rows of numbers, and refuses all else.

It knows of no document; an index names it, which the edits of rows try.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz.edits import Edit, splices
from benchmarks.fuzz.failures import refused, require
from m3plugins.compression import CODECS, get_codec

PLACE = "codec"
DIM = 16

_VECTORS = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
_VECTORS /= np.linalg.norm(_VECTORS, axis=1, keepdims=True)


def edits() -> st.SearchStrategy[Edit]:
    """Edits of the bytes of three vectors."""
    return st.one_of([splices(f"{PLACE}/{name}", len(codec.encode(_VECTORS))) for name, codec in CODECS.items()])


def check(edit: Edit) -> None:
    """Decodes, and compares with the products that need no decoding."""
    codec = get_codec(edit.place.partition("/")[2])
    data = edit.splice(codec.encode(_VECTORS))
    try:
        decoded, products = codec.decode(data, DIM), codec.products(data, _VECTORS)
    except Exception as error:
        refused(error, ["bytes", "must be finite"], (ValueError,))
        whole = not len(data) % codec.bytes_per_token(DIM)
        require(not whole or "must be finite" in str(error), "whole rows are refused", error)
        return
    require(decoded.shape == (len(data) // codec.bytes_per_token(DIM), DIM), "another shape", decoded.shape)
    require(np.isfinite(decoded).all(), "decoded vectors that are not finite", data)
    same = np.allclose(products, decoded @ _VECTORS.T, rtol=1e-2, atol=1e-2)
    require(same, "products that are not those of the decoded", data)
