"""Documents stored as their passages: all of a document's new ones, then away with the old ones.

No engine replaces several rows in one step, so a document is held while that is done, which keeps this process'
other threads out, and looked at when it is done: where another process wrote it, too, it is written again. Whoever
writes last therefore finds its own passages and no others before it acknowledges them, and whoever deletes, none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from m3plugins.encoding.encoder import M3Encoder
from m3plugins.encoding.passages import Passages
from m3plugins.encoding.text import is_blank
from m3plugins.indexing.document import Digest, Document, detached
from m3plugins.indexing.locking import TURNS, pause
from m3plugins.indexing.report import Ack, FailedDocument, UpsertReport
from m3plugins.indexing.streaming import Pending, Stream, fault, windows
from m3plugins.indexing.upsert import checked
from m3plugins.indexing.writer import REPLACED, Writer

CONTENDED = "another process keeps writing the same document; index it again"

Parts = Mapping[str, Sequence[Document]]
"""The passages of documents, by the document's id."""


def ingest_passages(
    documents: Iterable[Document],
    passages: Passages,
    *,
    encoder: M3Encoder,
    writer: Writer[Any],
    on_ack: Ack | None = None,
) -> UpsertReport:
    """Streams documents into an engine, each as its passages.

    A document's passages have the ids `{id}#0`, `{id}#1`, ..., its title and metadata, and its id as
    `parent_id`. The heading that a passage is under joins its title, to be encoded, and is its metadata's
    "heading". A document is acknowledged once all of its passages, and no others, are stored, and it fails as a
    whole: before anything of it is written, wherever that can be known. Of two calls for one document one is later.

    Args:
        documents: Any iterable.
        passages: How to cut.
        encoder: Counts the tokens, and encodes.
        writer: The engine.
        on_ack: Called with the ids of documents whose passages are stored or known to be unchanged.

    Returns:
        What became of the documents; `truncated` counts passages.
    """
    report = UpsertReport()
    valid = (Pending(document) for document in _valid(documents, writer, report))
    for window in windows(valid):
        parts: dict[str, Sequence[Document]] = {}
        for item in window:
            try:
                pieces = split(item.document, passages, encoder)
            except (MemoryError, RuntimeError) as err:
                report.failed.append(FailedDocument(item.document.id, fault("the tokenizer", err)))
                continue
            try:
                for piece in pieces:
                    writer.check(piece)
            except ValueError as err:
                report.failed.append(FailedDocument(item.document.id, str(err)))
            else:
                parts[item.document.id] = pieces
        with writer.holding(parts):
            whole = _store(parts, encoder, writer, report)
        if on_ack and whole:
            on_ack(whole)
    return report


def check_not_embedded(embeddings: object) -> None:
    """Refuses embeddings of documents that are cut into passages.

    Raises:
        ValueError: If there are any.
    """
    if embeddings is not None:
        msg = "an index with passages cuts documents and encodes the pieces itself; leave embeddings out"
        raise ValueError(msg)


class Pieces(Sequence[Document]):
    """The passages of a document, in order; each is made when it is asked for.

    Args:
        document: What is cut.
        spans: Where in its text the passages are.
    """

    def __init__(self, document: Document, spans: Sequence[tuple[int, int]]) -> None:
        self._document = document
        self._spans = spans
        self._headings = [heading.start for heading in document.headings]

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, item: int) -> Document: ...
    @overload
    def __getitem__(self, item: slice) -> list[Document]: ...
    def __getitem__(self, item: int | slice) -> Document | list[Document]:
        numbers = range(len(self))[item]
        return self._piece(numbers) if isinstance(numbers, int) else [self._piece(number) for number in numbers]

    def _piece(self, number: int) -> Document:
        document, (start, end) = self._document, self._spans[number]
        piece = replace(
            document, id=f"{document.id}#{number}", text=document.text[start:end], parent_id=document.id, headings=()
        )
        return _under(_nearest(document, bisect_right(self._headings, start) - 1, start), piece)


def split(document: Document, passages: Passages, encoder: M3Encoder) -> Pieces:
    """The passages of a document, in order; one at least."""
    headings = [heading.start for heading in document.headings]
    return Pieces(document, passages.spans(document.text, encoder, headings))


def _nearest(document: Document, position: int, start: int) -> str:
    """The heading of a passage that starts there, given the position of the one above (-1: none).

    Of headings with nothing in between it is the last.
    """
    nearest = document.headings[position].text if position >= 0 else ""
    end = max(start, document.headings[position].end) if position >= 0 else start
    for heading in document.headings[position + 1 :]:
        if not is_blank(document.text, end, heading.start):
            break
        nearest, end = heading.text, heading.end
    return nearest


def _under(heading: str, passage: Document) -> Document:
    """The passage with its heading, which is encoded with it; a "heading" of the caller's own stays."""
    if not heading:
        return passage
    parts = [part for part in (passage.title, heading) if part]
    title = ": ".join(dict.fromkeys(parts))
    return replace(passage, title=title, metadata={"heading": heading, **passage.metadata})


def _valid(documents: Iterable[Document], writer: Writer[Any], report: UpsertReport) -> Iterator[Document]:
    for document in documents:
        try:
            checked(document).check()
            if document.parent_id is not None:
                msg = (
                    "in an index with passages parent_id must be None (a passage's parent is its document), "
                    f"got {document.parent_id!r}; put it into the metadata"
                )
                raise ValueError(msg)
        except ValueError as err:
            report.failed.append(FailedDocument(str(document.id), str(err)))
        else:
            yield detached(document)  # read ahead, as in `ingest`


def remove_documents(ids: Sequence[str], writer: Writer[Any]) -> int:
    """Deletes documents that the caller holds, each with all of its passages; returns how many passages there were.

    Raises:
        RuntimeError: If another process keeps writing them.
    """
    removed = 0
    for turn in range(TURNS):
        found = list(writer.passages_of(ids))
        if not found:
            return removed
        if turn:
            pause(turn)
        removed += writer.remove(found)
    msg = f"another process keeps writing the documents {', '.join(map(repr, ids))[:200]}; delete them again"
    raise RuntimeError(msg)


def _store(parts: Parts, encoder: M3Encoder, writer: Writer[Any], report: UpsertReport) -> list[str]:
    """Replaces documents that the caller holds by their passages; returns the ids of those that are stored."""
    owner_of = {piece.id: owner for owner, pieces in parts.items() for piece in pieces}
    digests = {piece.id: piece.digest() for pieces in parts.values() for piece in pieces}
    written: set[str] = set()

    def stored(ids: list[str], changed: bool) -> None:
        written.update(owner_of[i] for i in ids if changed)

    failed: dict[str, str] = {}
    left = parts
    for turn in range(TURNS):
        inner = UpsertReport()
        Stream(encoder, writer, inner, stored).run(Pending(piece) for pieces in left.values() for piece in pieces)
        report.truncated += inner.truncated
        failed |= {owner_of[i]: f"passage {i}: {reason}" for i, reason in inner.failed if reason != REPLACED}
        left = {i: pieces for i, pieces in left.items() if i not in failed}
        written |= _remove_stale(left, digests, writer)
        left = {i: left[i] for i in _different(left, digests, writer)}
        if not left:
            break
        pause(turn)
    failed |= dict.fromkeys(left, CONTENDED)
    whole = [i for i in parts if i not in failed]
    report.failed += [FailedDocument(i, reason) for i, reason in failed.items()]
    report.written += len(written - failed.keys())
    report.unchanged += len(whole) - len(written - failed.keys())
    return whole


def _remove_stale(parts: Parts, digests: dict[str, Digest], writer: Writer[Any]) -> set[str]:
    """Removes the passages that these documents have no more; returns the documents that had some."""
    stale = {i: owner for i, owner in writer.passages_of(list(parts)).items() if i not in digests}
    if stale:
        writer.remove(list(stale))
    return set(stale.values())


def _different(parts: Parts, digests: dict[str, Digest], writer: Writer[Any]) -> list[str]:
    """The documents that are not stored as exactly these passages."""
    found = writer.passages_of(list(parts))
    there: dict[str, dict[str, Digest]] = {owner: {} for owner in parts}
    for i, digest in writer.digests(list(found)).items():
        there[found[i]][i] = digest
    wanted = {owner: {piece.id: digests[piece.id] for piece in pieces} for owner, pieces in parts.items()}
    return [owner for owner in parts if there[owner] != wanted[owner]]
