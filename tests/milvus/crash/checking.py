"""What must hold of an index, whatever happened to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from pymilvus import MilvusClient

from m3plugins import Document, M3Output
from m3plugins_milvus import MilvusHybridIndex
from tests.milvus.crash.corpus import Allowed, Corpus

ENCODED_AGAIN = 1e-4
"""A text encoded in other company has other roundings."""
CODEC = 0.005
"""The error of a unit vector's components in 8 bit."""


@dataclass
class Findings:
    """What is wrong, one line each.

    Attributes:
        lost: Acknowledged changes that are not there.
        duplicated: Documents that are there, or are found, twice, or that the verbs do not agree on.
        mismatched: Documents that nobody sent, and vectors of another text.
    """

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicated or self.mismatched)

    def __iadd__(self, other: Findings) -> Findings:
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.mismatched += other.mismatched
        return self


def check(index: MilvusHybridIndex, corpus: Corpus, allowed: Allowed, known: Allowed) -> Findings:
    """Compares all that the index answers with what it may.

    Args:
        index: Just opened.
        corpus: Has the embeddings of each text.
        allowed: What may be stored.
        known: What ever was sent: a version of these that is not allowed is an old one.
    """
    allowed, known = corpus.rows(allowed, known)
    findings = Findings()
    stored: dict[str, Document] = {}
    for document, output in index.scan(with_embeddings=True):
        i = document.id
        if i in stored:
            findings.duplicated.append(f"scan gives {i} twice")
        stored[i] = document
        if document not in known.get(i, ()):
            findings.mismatched.append(f"{i} is none of the documents sent: {str(document)[:300]}")
            continue
        if document not in allowed[i]:
            findings.lost.append(f"{i} is an old version: {str(document.metadata)}")
        findings.mismatched += [f"{i}: {what}" for what in _differences(output, corpus.outputs[document.content])]
    findings.lost += [f"{i} is gone" for i, versions in allowed.items() if i not in stored and None not in versions]
    _check_answers(index, corpus, stored, findings)
    return findings


def named_blocks(client: MilvusClient, name: str) -> int:
    """How many rows the collection of blocks must have: what the documents name, and the identity."""
    rows = client.query(name, filter='key != ""', output_fields=["vector_blocks", "text_blocks"])
    return 1 + sum(row["vector_blocks"] + row["text_blocks"] for row in rows)


def stored_blocks(client: MilvusClient, name: str) -> int:
    """How many rows it has."""
    return len(client.query(f"{name}__mv", filter='key != ""', output_fields=["key"]))


def _differences(stored: M3Output, expected: M3Output) -> Iterator[str]:
    if not np.allclose(stored.dense, expected.dense, atol=ENCODED_AGAIN):
        yield "the dense vector is of another text"
    weights, wanted = stored.sparse[0].to_dict(), expected.sparse[0].to_dict()
    if weights.keys() != wanted.keys() or any(abs(weights[i] - wanted[i]) > ENCODED_AGAIN for i in wanted):
        yield "the sparse vector is of another text"
    tokens, right = stored.multi_vector[0], expected.multi_vector[0]
    if tokens.shape != right.shape or np.abs(tokens - right).max() > CODEC:
        yield "the token vectors are of another text"


def _check_answers(
    index: MilvusHybridIndex, corpus: Corpus, stored: Mapping[str, Document], findings: Findings
) -> None:
    """`count`, `get`, `candidates` and `score` against what `scan` gave."""
    if index.count() != len(stored):
        findings.duplicated.append(f"count is {index.count()}, scan gives {len(stored)}")
    if {document.id: document for document in index.get([*stored, "nobody"])} != stored:
        findings.duplicated.append("get and scan do not agree")
    query = next(iter(corpus.outputs.values()))
    exact = index.score(query, list(stored))
    for head, found in index.candidates(query, 10 * len(stored) + 10).items():
        ids = [hit.id for hit in found]
        if len(ids) != len(set(ids)):
            findings.duplicated.append(f"{head} finds {len(ids) - len(set(ids))} documents twice")
        right = {i: getattr(exact[i], head) for i in stored}
        missing = {i for i, score in right.items() if head == "dense" or score > 0} ^ set(ids)
        if missing:
            findings.duplicated.append(f"{head} and scan do not agree on {sorted(missing)}")
        wrong = [hit.id for hit in found if abs(hit.score - right.get(hit.id, np.inf)) > ENCODED_AGAIN]
        findings.mismatched += [f"{i}: {head} is searched by the vector of another text" for i in wrong]
