"""Whether a collection's vectors are those of a model: nothing in it says so, but its texts can be encoded again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.errors import ModelMismatchError
from m3plugins.scoring.sparse import sparse_scores
from m3plugins_milvus.attached.rows import to_document, to_output
from m3plugins_milvus.attached.table import Table

SAMPLE = 64
ALIKE = 0.99
"""Half precision takes about 0.001 off a cosine; another model's vectors are far below."""


def check_model(table: Table, encoder: M3Encoder, count: int) -> None:
    """Encodes some stored texts (short ones, which no limit has cut) and compares the vectors.

    Args:
        table: The collection.
        encoder: With the model that should have made its vectors.
        count: How many texts.

    Raises:
        ModelMismatchError: If the vectors are others, or not of unit length.
    """
    schema = table.schema
    rows = table.sample([*schema.document, *schema.fields.heads.values()], SAMPLE)
    by_text = {to_document(row, schema).content: row for row in rows}
    texts = sorted((text for text in by_text if text), key=len)[:count]
    if not texts:
        return
    stored = to_output([by_text[text] for text in texts], schema, encoder.vocab_size)
    made = encoder.encode_documents(texts, heads=schema.fields.heads)
    for head, cosines in _cosines(stored, made).items():
        if len(cosines) and (cosine := float(np.median(cosines))) < ALIKE:
            msg = (
                f"the {head} vectors in {table.name!r} are not this encoder's: of {len(cosines)} texts encoded again, "
                f"half have a cosine of at most {cosine:.3f} with what is stored, {ALIKE} or more is expected; attach "
                "with the model, title and document_max_length that they were made with (verify=0 skips this check)"
            )
            raise ModelMismatchError(msg)
    if stored.dense is not None:
        lengths = np.linalg.norm(stored.dense, axis=1)
        if np.abs(lengths - 1).max() > 1 - ALIKE:
            msg = (
                f"the dense vectors in {table.name!r} must be of length 1 for the metric IP, got lengths from "
                f"{lengths.min():.3f} to {lengths.max():.3f}; normalise them, or index them by COSINE"
            )
            raise ModelMismatchError(msg)


def _cosines(stored: M3Output, made: M3Output) -> dict[str, NDArray[np.float32]]:
    """How alike the vectors of each text are, by head; texts without a token are left out of the sparse head."""
    cosines: dict[str, NDArray[np.float32]] = {}
    if stored.dense is not None and made.dense is not None:
        norms = np.linalg.norm(stored.dense, axis=1) * np.linalg.norm(made.dense, axis=1)
        cosines["dense"] = (stored.dense * made.dense).sum(axis=1) / np.maximum(norms, 1e-12)
    if stored.sparse is not None and made.sparse is not None:
        norms = np.sqrt(sparse_scores(stored.sparse, stored.sparse).diagonal())
        norms = norms * np.sqrt(sparse_scores(made.sparse, made.sparse).diagonal())
        products = sparse_scores(stored.sparse, made.sparse).diagonal()
        texts = np.diff(made.sparse.indptr) > 0
        cosines["sparse"] = products[texts] / np.maximum(norms[texts], 1e-12)
    return cosines
