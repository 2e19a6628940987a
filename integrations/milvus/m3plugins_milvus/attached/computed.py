"""Heads that a collection does not store, computed from its texts when they are asked for."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import Head, M3Output


class ComputedHeads:
    """Embeddings of texts, the last used of which are kept.

    Args:
        encoder: Makes them.
        heads: Which; all in one forward pass.
        max_bytes: How much to keep.
    """

    def __init__(self, encoder: M3Encoder, heads: Sequence[Head], max_bytes: int) -> None:
        self.encoder = encoder
        self._heads = heads
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, M3Output] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, texts: Sequence[str]) -> M3Output:
        """The embeddings of one or more texts."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        if missing := {key: text for key, text in zip(keys, texts, strict=True) if key not in known}:
            made = self.encoder.encode_documents(list(missing.values()), heads=self._heads)
            new = dict(zip(missing, made, strict=True))
            self._keep(new)
            known |= new
        return M3Output.concatenate([known[key] for key in keys])

    def _keep(self, new: dict[bytes, M3Output]) -> None:
        with self._lock:
            for key, output in new.items():
                if key not in self._kept:
                    self._kept[key] = output
                    self._bytes += _size(output)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(output: M3Output) -> int:
    sizes = [
        0 if output.dense is None else output.dense.nbytes,
        0 if output.sparse is None else output.sparse.indices.nbytes + output.sparse.values.nbytes,
        0 if output.multi_vector is None else output.multi_vector.vectors.nbytes,
    ]
    return sum(sizes)
