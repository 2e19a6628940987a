"""The compact form of embeddings on the wire: one safetensors file, read and written without a copy of the arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import M3Output
from m3plugins.encoding.sparse import SparseEmbeddings

MEDIA_TYPE = "application/vnd.m3plugins.embeddings+safetensors"
"""Name of the form in HTTP's `Accept` and `Content-Type`."""


def to_bytes(output: M3Output) -> bytes:
    """Packs embeddings: a tensor for each array of `M3Output`, by the names below; a head that is None has none.

    `token_counts` (n,), int32; `truncated` (n,), bool; `dense` (n, dim), float32; `sparse.indptr` (n + 1,), int64,
    `sparse.indices`, int32, `sparse.values`, float32, `sparse.vocab_size` (1,), int64; `multi_vector.offsets` (n + 1,),
    int64, and `multi_vector.vectors` (tokens, width), float32. Little-endian, as safetensors is.
    """
    arrays: dict[str, NDArray[Any]] = {"token_counts": output.token_counts, "truncated": output.truncated}
    if output.dense is not None:
        arrays["dense"] = output.dense
    if (sparse := output.sparse) is not None:
        arrays |= {"sparse.indptr": sparse.indptr, "sparse.indices": sparse.indices, "sparse.values": sparse.values}
        arrays["sparse.vocab_size"] = np.array([sparse.vocab_size], np.int64)
    if output.multi_vector is not None:
        arrays["multi_vector.offsets"] = output.multi_vector.offsets
        arrays["multi_vector.vectors"] = output.multi_vector.vectors
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def from_bytes(data: bytes) -> M3Output:
    """Unpacks what `to_bytes` packed.

    Raises:
        ValueError: If it is something else.
    """
    try:
        arrays = load(data)
        sparse, multi_vector = None, None
        if "sparse.indptr" in arrays:
            sparse = SparseEmbeddings(
                arrays["sparse.indptr"],
                arrays["sparse.indices"],
                arrays["sparse.values"],
                vocab_size=int(arrays["sparse.vocab_size"][0]),
            )
        if "multi_vector.offsets" in arrays:
            multi_vector = MultiVectorEmbeddings(arrays["multi_vector.offsets"], arrays["multi_vector.vectors"])
        return M3Output(arrays.get("dense"), sparse, multi_vector, arrays["token_counts"], arrays["truncated"])
    except (SafetensorError, KeyError, IndexError) as err:
        msg = f"these are no embeddings of m3plugins on the wire: {err}"
        raise ValueError(msg) from err
