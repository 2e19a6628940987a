"""What holds of any engine when two callers write one document at the same time; the interleaving is forced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from m3plugins import Document, HybridIndex
from m3plugins.encoding import Passages
from m3plugins.indexing import locking
from m3plugins.indexing.writer import EmbeddedBatch
from m3plugins.retrieval import filters
from tests.tiny import SENTENCES

CUT = Passages(size=40, overlap=8)
OLD, SHORT, LONG = (" ".join(SENTENCES[start:end]) for start, end in ((0, 3), (3, 5), (5, 11)))
BLOCKED_S = 0.2
"""How long another caller is waited for: it ends in this time, or waits for the one that is interrupted."""

Act = Callable[[HybridIndex], object]

UPSERT: Act = lambda index: index.upsert([Document(id="a", text=LONG, metadata={"by": "other"})])  # noqa: E731
ACTS: dict[str, Act] = {
    "upsert": UPSERT,
    "delete": lambda index: index.delete(["a"]),
    "delete by parent": lambda index: index.delete(parent_id="a"),
    "delete by filter": lambda index: index.delete(filter=filters.exists("by")),
    "update_metadata": lambda index: index.update_metadata({"a": {"by": "update"}}),
}


def whole(index: HybridIndex, text: str) -> list[str]:
    return CUT.split(text, index.encoder)


def texts(index: HybridIndex) -> list[str]:
    """The passages of the document, in order; they agree on their metadata."""
    found = {document.id: document for document in index.scan() if document.parent_id == "a"}
    assert len({document.metadata.get("by") for document in found.values()}) <= 1
    return [found[f"a#{n}"].text for n in range(len(found))]


class Interruption:
    """Something else that happens once, in a thread, in the middle of a call.

    Args:
        act: What happens.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    def __call__(self) -> None:
        """Lets it happen, or lets it come as far as it can."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
            self._thread.join(BLOCKED_S if self.waits else None)

    waits = True
    """Whether it may wait for the call to end."""

    def finish(self) -> None:
        """Waits for its end."""
        assert self._thread is not None, "the call never came by"
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._fault:
            raise self._fault

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as err:
            self._fault = err


class RacesSuite:
    """Subclasses have the fixtures `make` and `empty` of an engine."""

    # Without passages

    @pytest.mark.parametrize("text", ["a fox", "a river"], ids=["the parent", "the text"])
    def test_an_upsert_between_read_and_write_of_new_metadata_is_kept(self, empty, monkeypatch, text):
        empty.upsert([Document(id="a", text="a fox", parent_id="old", metadata={"n": 0})])
        annotate = type(empty.writer).annotate

        def late(*arguments):
            monkeypatch.undo()
            assert empty.upsert([Document(id="a", text=text, parent_id="new", metadata={"n": 1})]).written == 1
            return annotate(*arguments)

        monkeypatch.setattr(type(empty.writer), "annotate", late)
        report = empty.update_metadata({"a": {"n": 2}})
        assert (report.written, report.failed) == (1, [])
        expected = Document(id="a", text=text, parent_id="new", metadata={"n": 2})
        assert empty.get(["a"]) == [expected]
        assert empty.upsert([expected]).unchanged == 1

    def test_an_upsert_between_two_reads_of_an_update_is_kept(self, empty, monkeypatch):
        """Else the digest would be that of the new document, and the old one be written under it."""
        empty.upsert([Document(id="a", text="a fox", parent_id="old")])
        for verb in ("get", "digests"):
            read = getattr(type(empty.writer), verb)

            def late(*arguments, read=read, verb=verb):
                monkeypatch.undo()
                answer = read(*arguments)
                empty.upsert([Document(id="a", text="a fox", parent_id=verb)])
                return answer

            monkeypatch.setattr(type(empty.writer), verb, late)
            assert empty.update_metadata({"a": {"after": verb}}).written == 1
            assert empty.get(["a"]) == [Document(id="a", text="a fox", parent_id=verb, metadata={"after": verb})]

    def test_new_metadata_do_not_bring_back_what_is_deleted_meanwhile(self, empty, monkeypatch):
        empty.upsert([Document(id="a", text="a fox")])
        annotate = type(empty.writer).annotate

        def late(*arguments):
            monkeypatch.undo()
            empty.delete(["a"])
            return annotate(*arguments)

        monkeypatch.setattr(type(empty.writer), "annotate", late)
        report = empty.update_metadata({"a": {"n": 2}})
        assert report.failed == [("a", "there is no document of this id; index it first")]
        assert list(empty.scan()) == []

    # With passages

    @pytest.fixture(scope="class")
    @classmethod
    def passages(cls, make) -> HybridIndex:
        return make(passages=CUT)

    @pytest.fixture
    def cut(self, passages) -> HybridIndex:
        passages.delete(["a"])
        passages.upsert([Document(id="a", text=OLD, metadata={"by": "old"}), Document(id="b", text="another")])
        return passages

    @pytest.fixture
    def halfway(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[HybridIndex, Interruption], None]:
        """Interrupts the next write of several documents after the first of them."""

        def interrupt(index: HybridIndex, interruption: Interruption) -> None:
            kind = type(index.writer)
            write = kind.write

            def halves(writer: Any, batch: EmbeddedBatch) -> Any:
                monkeypatch.setattr(kind, "write", write)
                ends = [(0, 1), (1, len(batch.documents))]
                parts = [
                    EmbeddedBatch(batch.documents[a:b], batch.digests[a:b], batch.embeddings[a:b]) for a, b in ends
                ]
                failed = list(write(writer, parts[0]) or ())
                interruption()
                return [*failed, *(write(writer, parts[1]) or ())]

            monkeypatch.setattr(kind, "write", halves)

        return interrupt

    @pytest.mark.parametrize("act", ACTS)
    @pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
    def test_a_document_of_two_callers_is_that_of_one_of_them(self, cut, halfway, act, text):
        other = Interruption(lambda: ACTS[act](cut))
        halfway(cut, other)
        assert cut.upsert([Document(id="a", text=text, metadata={"by": "one"})]).written == 1
        other.finish()
        allowed = [whole(cut, LONG)] if act == "upsert" else [whole(cut, text)]
        assert texts(cut) in ([*allowed, []] if act.startswith("delete") else allowed)
        if act == "update_metadata":
            assert {d.metadata["by"] for d in cut.scan(filters.exists("by"))} == {"update"}

    @pytest.mark.parametrize("act", ACTS)
    @pytest.mark.parametrize("text", [SHORT, LONG + " " + OLD], ids=["short", "long"])
    def test_a_document_that_another_process_writes_is_written_again(self, cut, halfway, monkeypatch, act, text):
        """Nobody waits for the other, who is done when the interrupted one goes on."""
        monkeypatch.setattr(locking.DocumentLocks, "holding", lambda self, ids: nullcontext())
        other = Interruption(lambda: ACTS[act](cut))
        other.waits = act == "delete by filter"  # which waits for a lock of one write in some engines
        halfway(cut, other)
        report = cut.upsert([Document(id="a", text=text, metadata={"by": "one"})])
        other.finish()
        assert (report.written, report.failed) == (1, [])
        assert texts(cut) in ([whole(cut, text), []] if act == "delete by filter" else [whole(cut, text)])
        if act == "update_metadata":
            assert {d.metadata["by"] for d in cut.scan(filters.exists("by"))} == {"one"}

    def test_new_metadata_are_of_all_passages_that_there_are(self, cut, monkeypatch):
        """Another process replaces the document between the list of passages and their new metadata."""
        monkeypatch.setattr(locking.DocumentLocks, "holding", lambda self, ids: nullcontext())
        annotate = type(cut.writer).annotate
        with monkeypatch.context() as patch:

            def late(*arguments: Any) -> Any:
                patch.undo()
                UPSERT(cut)
                return annotate(*arguments)

            patch.setattr(type(cut.writer), "annotate", late)
            report = cut.update_metadata({"a": {"by": "update"}})
        assert (report.written, report.failed) == (1, [])
        assert texts(cut) == whole(cut, LONG)
        assert cut.count(filters.eq("by", "update")) == len(whole(cut, LONG))

    # Whose metadata they are

    def test_metadata_are_the_callers_when_they_come_and_the_readers_when_they_go(self, empty):
        """One mapping for all documents, changed between them, and what was read changed as well."""
        metadata: dict[str, Any] = {"n": 0, "nested": {"list": [0]}}

        def documents() -> Iterator[Document]:
            for n in range(5):
                metadata["n"] = metadata["nested"]["list"][0] = n
                yield Document(id=str(n), text=f"fox {n}", metadata=metadata)

        def changed(documents: Iterator[Document]) -> list[Document]:
            read = sorted(documents, key=lambda document: document.id)
            assert [(d.metadata["n"], d.metadata["nested"]) for d in read] == [(n, {"list": [n]}) for n in range(5)]
            for document in read:
                document.metadata["nested"]["list"].append("changed")
                document.metadata["n"] = -1
            return read

        empty.upsert(documents())
        ids = [str(n) for n in range(5)]
        for _ in range(2):
            changed(iter(empty.get(ids)))
            changed(empty.scan())
            changed(document for document, _ in empty.scan(with_embeddings=True))
            changed(iter(empty.writer.get(ids)))
        empty.update_metadata(dict.fromkeys(ids, metadata), on_ack=lambda _: metadata.clear())
        assert empty.get(["0"])[0].metadata == {"n": 4, "nested": {"list": [4]}}


class SharedRacesSuite(RacesSuite):
    """Of engines whose deletions keep nobody out between what they read and what they delete."""

    def test_what_is_written_while_it_is_deleted_goes_as_well(self, cut, monkeypatch):
        """By another process, between the list of passages and their end."""
        monkeypatch.setattr(locking.DocumentLocks, "holding", lambda self, ids: nullcontext())
        remove = type(cut.writer).remove
        with monkeypatch.context() as patch:

            def late(writer: Any, ids: Collection[str]) -> int:
                patch.undo()
                UPSERT(cut)
                return remove(writer, ids)

            patch.setattr(type(cut.writer), "remove", late)
            assert cut.delete(["a"]) == len(whole(cut, LONG))
        assert texts(cut) == []
