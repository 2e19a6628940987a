"""What is interrupted: each operation as the calls it makes and what they mean for each document.

A new one is a function from the corpus to its steps, under its name in `OPERATIONS`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from m3plugins import Document, M3Encoder
from m3plugins.indexing.report import Ack
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex
from tests.milvus.crash.corpus import Corpus, annotated

Sent = list[tuple[str, Document | None]]


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        sent: The documents it stores, in order; None: the id is deleted. The n-th acknowledgement of an id
            is of the n-th document sent under it.
        call: Makes the call and hands on its acknowledgements; returns the failed documents.
        beside: Metadata that another thread gives to these documents meanwhile, whatever their text is.
    """

    sent: Sent
    call: Callable[[MilvusHybridIndex, Ack], list[object]]
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def upsert(documents: list[Document], corpus: Corpus, encode: bool) -> Step:
    def call(index: MilvusHybridIndex, ack: Ack) -> list[object]:
        embeddings = None if encode else corpus.embeddings(documents)
        return list(index.upsert(documents, embeddings=embeddings, on_ack=ack).failed)

    return Step([(each.id, each) for each in documents], call)


def update_metadata(documents: list[Document]) -> Step:
    def call(index: MilvusHybridIndex, ack: Ack) -> list[object]:
        return list(index.update_metadata({each.id: each.metadata for each in documents}, on_ack=ack).failed)

    return Step([(each.id, each) for each in documents], call)


def delete(documents: list[Document], **which: object) -> Step:
    def call(index: MilvusHybridIndex, ack: Ack) -> list[object]:
        index.delete(**which)
        ack([each.id for each in documents])
        return []

    return Step([(each.id, None) for each in documents], call)


def _index(corpus: Corpus, encode: bool) -> list[Step]:
    return [upsert(corpus.new, corpus, encode)]


def _update(corpus: Corpus, encode: bool) -> list[Step]:
    """Three times all texts, in one stream."""
    return [upsert([each for version in (1, 2, 3) for each in corpus.version(version)], corpus, encode)]


def _trickle(corpus: Corpus, encode: bool) -> list[Step]:
    """Many small calls: Lite makes a file of each, and compacts them."""
    return [upsert(corpus.version(1)[start : start + 4], corpus, encode) for start in range(0, 32, 4)]


def _annotate(corpus: Corpus, encode: bool) -> list[Step]:
    """New metadata, by upsert."""
    return [upsert([annotated(each, "by upsert") for each in corpus.stored], corpus, encode)]


def _update_metadata(corpus: Corpus, encode: bool) -> list[Step]:
    return [update_metadata([annotated(each, note) for each in corpus.stored]) for note in ("one", "two")]


def _delete_ids(corpus: Corpus, encode: bool) -> list[Step]:
    halves = (corpus.stored[:16], corpus.stored[16:])
    return [delete(half, ids=[each.id for each in half]) for half in halves]


def _delete_filter(corpus: Corpus, encode: bool) -> list[Step]:
    return [
        delete([each for each in corpus.stored if each.metadata["group"] == group], filter=filters.eq("group", group))
        for group in range(2)
    ]


def _delete_parent(corpus: Corpus, encode: bool) -> list[Step]:
    return [
        delete([each for each in corpus.stored if each.parent_id == parent], parent_id=parent)
        for parent in ("parent-0", "parent-1")
    ]


def _beside(corpus: Corpus, encode: bool) -> list[Step]:
    """Two versions of all texts, one after the other, while another thread gives them metadata again and again."""
    notes = {each.id: {"note": "beside"} for each in corpus.stored}
    inner = [upsert(corpus.version(version), corpus, encode) for version in (1, 2)]

    def call(step: Step, index: MilvusHybridIndex, ack: Ack) -> list[object]:
        done, failed = threading.Event(), list[object]()

        def annotate() -> None:
            ids = list(notes)
            while not done.is_set():
                for start in range(0, len(ids), 8):
                    some = ids[start : start + 8]
                    failed.extend(index.update_metadata({i: notes[i] for i in some}).failed)

        other = threading.Thread(target=annotate, daemon=True)
        other.start()
        try:
            return [*step.call(index, ack), *failed]
        finally:
            done.set()
            other.join()

    return [Step(step.sent, partial(call, step), notes) for step in inner]


def _passages_life(corpus: Corpus, encode: bool) -> list[Step]:
    """Everything that happens to documents of several rows."""
    new, updated = corpus.new[:8], corpus.version(1)
    return [
        upsert(new, corpus, encode),
        upsert(updated, corpus, encode),
        update_metadata([annotated(each, "later") for each in updated]),
        delete(new[:4], ids=[each.id for each in new[:4]]),
        upsert(corpus.version(2), corpus, encode),
        delete(corpus.stored[:4], ids=[each.id for each in corpus.stored[:4]]),
    ]


def _reembed(corpus: Corpus, encode: bool) -> list[Step]:
    """By an encoder that reads less of each text; the index itself stays."""

    def call(index: MilvusHybridIndex, ack: Ack) -> list[object]:
        encoder = M3Encoder(index.encoder.model, replace(index.encoder.options, document_max_length=64))
        with index.reembed(encoder, into="other", sample=4).index as other:
            right = encoder.encode_documents([each.content for each in index.scan()])
            wanted = dict(zip((each.id for each in index.scan()), right, strict=True))
            return [
                document.id
                for document, output in other.scan(with_embeddings=True)
                if not np.allclose(output.dense, wanted.pop(document.id).dense, atol=1e-4)
            ] + list(wanted)

    return [Step([], call)]


def _life(corpus: Corpus, encode: bool) -> list[Step]:
    """Everything that happens to documents, one after the other."""
    new, updated = corpus.new, corpus.version(1)
    return [
        upsert(new, corpus, encode),
        upsert(updated, corpus, encode),
        delete(new[:8], ids=[each.id for each in new[:8]]),
        upsert([annotated(each, "later") for each in updated], corpus, encode),
        upsert(new[:4], corpus, encode),
        delete(new, ids=[each.id for each in new]),
        upsert(corpus.version(2), corpus, encode),
    ]


OPERATIONS: dict[str, Callable[[Corpus, bool], list[Step]]] = {
    "index": _index,
    "update": _update,
    "trickle": _trickle,
    "annotate": _annotate,
    "update_metadata": _update_metadata,
    "delete by ids": _delete_ids,
    "delete by filter": _delete_filter,
    "delete by parent": _delete_parent,
    "life": _life,
    "reembed": _reembed,
    "beside update_metadata": _beside,
    "passages": _passages_life,
    "passages beside update_metadata": _beside,
}


def is_cut(operation: str) -> bool:
    """Whether it is performed in an index with passages."""
    return operation.startswith("passages")


def notes(steps: list[Step]) -> dict[str, Mapping[str, Any]]:
    """The metadata that other threads give to documents meanwhile."""
    return {i: metadata for step in steps for i, metadata in step.beside.items()}
