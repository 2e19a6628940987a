"""Re-embedding: the documents of an index into a second one of another model, and the proof that all are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice

from m3plugins.compression import get_codec
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.output import M3Output
from m3plugins.indexing.document import Document
from m3plugins.indexing.index import HybridIndex
from m3plugins.indexing.report import Ack, FailedDocument
from m3plugins.indexing.upsert import ingest
from m3plugins.scoring.heads import HeadScores, head_scores

PASSES = 5
"""How often to catch up with an index that is written to meanwhile."""
PAGE = 64
_TOLERANCE = {"float32": 1e-3}
_LOW_PRECISION_TOLERANCE = 5e-2


class ReembedError(RuntimeError):
    """The second index is not what the first one is; the report says how far it came."""

    def __init__(self, message: str, report: ReembedReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class ReembedReport:
    """What became of the documents of one `reembed`.

    Attributes:
        written: Documents encoded and stored.
        unchanged: Documents that were there already, from a run before.
        deleted: Documents that the first index has no more.
        failed: Documents that were not stored, each with the reason.
        compared: Documents found equal in both indexes.
        rescored: Documents whose stored embeddings were compared with fresh ones.
        truncated: Documents of those written that the new model read only in part.
    """

    written: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: list[FailedDocument] = field(default_factory=list)
    compared: int = 0
    rescored: int = 0
    truncated: int = 0


def reembed(
    source: HybridIndex,
    target: HybridIndex,
    *,
    codec: str,
    on_ack: Ack | None = None,
    sample: int = 32,
) -> ReembedReport:
    """Copies documents, encoded anew, and verifies the copy; run again, it goes on where it ended.

    The source may be written to meanwhile: passes are repeated until one finds nothing new.

    Args:
        source: Where the documents are.
        target: Where they go; its encoder encodes.
        codec: Of the target's token vectors.
        on_ack: Called with the ids that the first pass finds stored in the target.
        sample: How many documents to encode once more, and compare with what is stored.

    Returns:
        What was done; `failed` is empty.

    Raises:
        ReembedError: If documents failed, or the indexes or the embeddings differ in the end.
    """
    if sample < 0:
        msg = f"sample must be a number of documents >= 0, got {sample}"
        raise ValueError(msg)
    report, writer = ReembedReport(), target.writer
    for turn in range(PASSES):
        copied = ingest(source.scan(), None, encoder=target.encoder, writer=writer, on_ack=on_ack if not turn else None)
        writer.show()
        report.written += copied.written
        report.truncated += copied.truncated
        report.failed = copied.failed
        report.unchanged = report.unchanged if turn else copied.unchanged
        report.compared, different = 0, 0
        for page in _pages(target.scan()):
            with _held(source, page):
                now = {document.id: document for document in source.get([document.id for document in page])}
            gone = [document.id for document in page if document.id not in now]
            report.deleted += writer.remove(gone)
            same = sum(now.get(document.id) == document for document in page)
            report.compared += same
            different += len(page) - len(gone) - same
        writer.show()
        missing = source.count() - report.compared
        if report.failed or not (different or missing):
            break
    if report.failed:
        reasons = "; ".join(f"{failure.id}: {failure.reason}" for failure in report.failed[:3])
        msg = f"{len(report.failed)} documents could not be stored again ({reasons}); correct them and run this again"
        raise ReembedError(msg, report)
    if different or missing:
        msg = (
            f"after {PASSES} passes {max(different, abs(missing))} documents still differ: the index is "
            "written to faster than it is copied; pause the writers and run this again"
        )
        raise ReembedError(msg, report)
    _rescore(target, codec, sample, report)
    return report


def _rescore(target: HybridIndex, codec: str, sample: int, report: ReembedReport) -> None:
    """Compares scores of stored embeddings with those of fresh ones, each document being its own query."""
    encoder = target.encoder
    tolerance = _TOLERANCE.get(encoder.settings["dtype"], _LOW_PRECISION_TOLERANCE)
    for page in _pages(islice(target.scan(), sample)):
        output = encoder.encode_documents([document.content for document in page])
        for row, document in enumerate(page):
            query = output[row]
            stored = target.score(query, [document.id]).get(document.id)
            fresh = head_scores(query, _as_kept(query, codec))[0]
            if stored is None or _distance(stored, fresh) > tolerance:
                msg = (
                    f"the stored embeddings of {document.id!r} score {stored}, fresh ones {fresh}; "
                    "drop the new index and run this again"
                )
                raise ReembedError(msg, report)
            report.rescored += 1


def _as_kept(output: M3Output, codec: str) -> M3Output:
    """One text's embeddings after a stay in the codec."""
    vectors = output.multi_vector
    assert vectors is not None  # all heads were asked for
    kept = get_codec(codec).decode(get_codec(codec).encode(vectors[0]), vectors.dim)
    return M3Output(
        output.dense,
        output.sparse,
        MultiVectorEmbeddings.from_list([kept]),
        output.token_counts,
        output.truncated,
    )


def _distance(one: HeadScores, other: HeadScores) -> float:
    """The largest difference of a head's scores, relative to those above 1."""
    pairs = [(one.dense, other.dense), (one.sparse, other.sparse), (one.multi_vector, other.multi_vector)]
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs if a is not None and b is not None)


def _held(source: HybridIndex, page: list[Document]) -> AbstractContextManager[None]:
    """Waits for this process' writers of these documents: half of one that is replaced is no version to end with."""
    if source.passages is None:
        return nullcontext()
    return source.writer.holding({document.parent_id or document.id for document in page})


def _pages(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while page := list(islice(documents, PAGE)):
        yield page
