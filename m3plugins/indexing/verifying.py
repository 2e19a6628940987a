"""Comparison of an index's vectors with its encoder's, by its documents: for one that records nothing else."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.indexing.errors import ModelMismatchError
from m3plugins.indexing.reader import Reader

SAMPLE = 64
COMPARED = 8
ALIKE = 0.95
"""Half precision takes about 0.001 off a cosine; another model's vectors are far below."""


def check_documents(reader: Reader[Any], encoder: M3Encoder, name: str) -> None:
    """Encodes some stored documents again, short ones, and compares the dense vectors.

    Documents that changed since they were encoded, or whose embeddings the caller gave, tell nothing and are left out.

    Args:
        reader: Reads the index.
        encoder: What is compared.
        name: Of the index.

    Raises:
        ModelMismatchError: If half of the vectors or more are others.
    """
    some = islice(reader.scan(reader.compile(None)), SAMPLE)
    documents = {document.id: document for document in some if document.content}
    digests = reader.digests(list(documents))
    of_ours = [i for i, one in documents.items() if i in digests and digests[i].content == one.digest().content]
    stored = reader.embeddings(sorted(of_ours, key=lambda i: len(documents[i].content))[:COMPARED], ["dense"])
    if not stored:
        return
    made = encoder.encode_documents([documents[i].content for i in stored], heads=["dense"]).dense
    kept = np.concatenate([one.dense for one in stored.values() if one.dense is not None])
    assert made is not None
    cosine = float(np.median((made * kept).sum(axis=1)))
    if not cosine >= ALIKE:
        msg = (
            f"the vectors in {name!r} are not those of the encoder {encoder.name!r}: of {len(stored)} documents "
            f"encoded again, half have a cosine of at most {cosine:.3f} with what is stored, {ALIKE} or more is "
            "expected; open it with the model that made it, or index the documents again"
        )
        raise ModelMismatchError(msg)
