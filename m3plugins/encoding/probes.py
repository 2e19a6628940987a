"""What a model makes of a few known texts: stored with an index, compared when the model is loaded again.

The files of a model do not say everything: another version of a library, a device or a patch may compute something
else with them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.output import M3Output

TEXTS = (
    "The Quick Brown Fox isn't lazy: it jumped 3.14 m over 42 dogs & naïve cafés (re-read it, re-read it).",
    "敏捷的棕色狐狸跳过了懒狗。 Быстрая лиса прыгает. الثعلب يقفز. नदी के किनारे लोमड़ी।",
    "fox",
)
"""Texts of several scripts, with capitals, accents, digits and a repetition: tokenizers and models differ in these."""

BUCKETS = 32
"""Numbers kept of a text's embedding in each head: sums of its components, of one in 32 each."""

_VERSION = "1"
"""Version of the texts and of the sketch: those of another version are not compared."""

_EXACT, _ROUNDED = 0.005, 0.15
"""How far apart two sketches of one model may be, relative to their length: in float32, and in lower precision."""

_FAINT = 1e-3
"""Length below which a sketch is one of nothing."""


def sketch(output: M3Output, settings: Mapping[str, str]) -> dict[str, str]:
    """A short form of the embeddings of `TEXTS`: per head a float16 of each bucket of each text, as base64.

    Args:
        output: All heads.
        settings: What they were computed with (dtype, backend).
    """
    assert output.dense is not None and output.sparse is not None and output.multi_vector is not None
    rows: dict[str, list[NDArray[np.float64]]] = {"dense": [], "sparse": [], "multi_vector": []}
    for text in range(len(TEXTS)):
        weights, vectors = output.sparse[text], output.multi_vector[text]
        rows["dense"].append(_buckets(np.arange(output.dense.shape[1]), output.dense[text]))
        rows["sparse"].append(_buckets(weights.indices, weights.values))
        rows["multi_vector"].append(_buckets(np.arange(vectors.shape[1]), vectors.mean(axis=0)))
    return {
        "version": _VERSION,
        **settings,
        "tokens": " ".join(map(str, output.token_counts.tolist())),
        **{head: base64.b64encode(np.array(values, np.float16).tobytes()).decode() for head, values in rows.items()},
    }


def difference(stored: Mapping[str, str], made: Mapping[str, str]) -> str:
    """What a model does otherwise than the one whose sketches were stored; "" if it does the same.

    Args:
        stored: Sketches from then.
        made: Those of now.
    """
    if stored["version"] != made["version"]:
        return ""
    exact = made["dtype"] == "float32" and all(stored[name] == made[name] for name in ("dtype", "backend"))
    if stored["tokens"] != made["tokens"]:
        return f"it makes {made['tokens']} tokens of known texts, the index's model made {stored['tokens']}"
    for head in ("dense", "sparse", "multi_vector"):
        one, other = _read(stored[head]), _read(made[head])
        if one.shape != other.shape:
            return f"its {head} head is another"
        scale = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
        apart = float((np.linalg.norm(one - other, axis=1) / np.maximum(scale, _FAINT)).max())
        if not apart <= (_EXACT if exact else _ROUNDED):
            return f"its {head} embeddings of known texts differ from those of the index's model by {apart:.0%}"
    return ""


def _buckets(ids: NDArray[np.integer], values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.bincount(ids % BUCKETS, weights=values, minlength=BUCKETS).astype(np.float64)


def _read(encoded: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(encoded), np.float16).reshape(-1, BUCKETS).astype(np.float32)
