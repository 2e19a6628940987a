"""What must hold of a copy between any two engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from m3plugins import Document, HybridIndex, M3Encoder, M3Output, ModelMismatchError
from m3plugins.encoding import Passages
from m3plugins.indexing import copy as copying
from m3plugins.indexing.copy import copy
from tests.core.indexing.races_suite import Interruption
from tests.tiny import SENTENCES, save_checkpoint

Make = Callable[..., HybridIndex]

WORDS = " ".join(SENTENCES).split()
DOCUMENTS = [
    Document(
        id=f"doc-{number}",
        text=" ".join(WORDS[number : number + number % 12]),
        title=["", "Fox", "狐"][number % 3],
        metadata={"number": number, "tags": ["a", {"b": [1.5, None]}], "": 1e22},
        parent_id=None if number % 4 else f"parent-{number}",
    )
    for number in range(70)
]


def by_id(index: HybridIndex) -> dict[str, Document]:
    return {document.id: document for document in index.scan()}


def assert_same(source: HybridIndex, target: HybridIndex) -> None:
    """Documents, digests and embeddings, these within what the codecs keep."""
    assert by_id(target) == by_id(source)
    ids = list(by_id(source))
    assert target.reader.digests(ids) == source.reader.digests(ids)
    kept = {document.id: output for document, output in target.scan(with_embeddings=True)}
    for document, output in source.scan(with_embeddings=True):
        other = kept[document.id]
        np.testing.assert_array_equal(other.dense, output.dense)
        assert other.sparse[0].to_dict() == pytest.approx(output.sparse[0].to_dict(), rel=2e-3)
        np.testing.assert_allclose(other.multi_vector[0], output.multi_vector[0], atol=0.01)
        assert other.token_counts.tolist() == output.token_counts.tolist()
        assert other.truncated.tolist() == output.truncated.tolist()


class CopyingSuite:
    """Subclasses have fixtures `make_source` and `make_target`, which make an empty index with these options."""

    @pytest.fixture
    def source(self, make_source: Make) -> HybridIndex:
        index = make_source()
        index.upsert(DOCUMENTS)
        return index

    @pytest.fixture
    def encoded(self, source: HybridIndex, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What is encoded once the source is full: it must stay empty."""
        texts: list[str] = []
        monkeypatch.setattr(M3Encoder, "iter_documents", lambda self, documents, **_: texts.extend(documents) or [])
        monkeypatch.setattr(M3Encoder, "encode_documents", lambda self, documents, **_: texts.extend(documents))
        return texts

    def test_a_copy_has_everything_and_encodes_nothing(self, source, make_target, encoded):
        target, acknowledged = make_target(), []
        report = copy(source, target, on_ack=acknowledged.extend)
        assert (report.written, report.unchanged, report.failed, report.truncated) == (70, 0, [], 0)
        assert sorted(acknowledged) == sorted(document.id for document in DOCUMENTS)
        assert by_id(target) == {document.id: document for document in DOCUMENTS}
        assert_same(source, target)
        query = M3Output.concatenate([source.embeddings(["doc-11"])["doc-11"]])
        found, expected = target.candidates(query, 70), source.candidates(query, 70)
        for head in ("dense", "sparse"):
            scores = {hit.id: hit.score for hit in expected[head]}
            assert {hit.id: hit.score for hit in found[head]} == pytest.approx(scores, rel=5e-3, abs=1e-5)
        assert encoded == []

    def test_a_second_run_copies_what_changed_and_nothing_else(self, source, make_target, monkeypatch):
        target, acknowledged = make_target(), []
        copy(source, target)
        report = copy(source, target, on_ack=acknowledged.extend)
        assert (report.written, report.unchanged, len(acknowledged)) == (0, 70, 70)
        source.upsert([replace(DOCUMENTS[3], text="another"), Document(id="new", text="new")])
        source.update_metadata({"doc-5": {"n": 1}})
        source.delete(["doc-6"])
        with monkeypatch.context() as patch:
            patch.setattr(M3Encoder, "iter_documents", None)
            report = copy(source, target)
        assert (report.written, report.unchanged, report.failed) == (3, 67, [])
        target.delete(["doc-6"])  # what the source has no more stays
        assert_same(source, target)

    def test_after_a_copy_an_upsert_of_the_same_documents_changes_nothing(self, source, make_target, encoded):
        target = make_target()
        copy(source, target)
        assert target.upsert(DOCUMENTS).unchanged == 70
        assert encoded == []

    def test_embeddings_of_the_callers_are_copied_with_their_digests(self, make_source, make_target, encoder):
        source, target = make_source(), make_target()
        rows = encoder.encode_documents(SENTENCES[:5])
        documents = [Document(id=str(number), text="not what was encoded") for number in range(5)]
        source.upsert(documents, embeddings=rows)
        assert (copy(source, target).written, copy(source, target).unchanged) == (5, 5)
        assert_same(source, target)
        assert target.upsert(documents, embeddings=rows).unchanged == 5

    def test_passages_are_copied_as_they_are(self, make_source, make_target, monkeypatch):
        cut = Passages(size=40, overlap=8)
        source, target = make_source(passages=cut), make_target(passages=cut)
        documents = [Document(id=i, text=" ".join(SENTENCES[:3]), metadata={"n": 1}) for i in "ab"]
        source.upsert(documents)
        assert copy(source, target).written == source.count() > 2
        assert_same(source, target)
        assert target.upsert(documents).unchanged == 2
        assert target.delete(["a"]) == source.count() // 2

    def test_a_document_takes_the_place_of_the_targets_own_with_all_its_passages(self, make_source, make_target):
        cut = Passages(size=40, overlap=8)
        source, target = make_source(passages=cut), make_target(passages=cut)
        source.upsert([Document(id="a", text=SENTENCES[0]), Document(id="b", text=SENTENCES[1])])
        target.upsert([Document(id="a", text=" ".join(SENTENCES)), Document(id="c", text=SENTENCES[2])])
        assert copy(source, target).failed == []
        assert {passage.parent_id for passage in target.scan()} == {"a", "b", "c"}
        target.delete(["c"])  # what the source has not stays
        assert_same(source, target)

    def test_a_document_that_is_written_to_the_target_meanwhile_is_one_of_both(
        self, make_source, make_target, monkeypatch
    ):
        cut = Passages(size=40, overlap=8)
        source, target = make_source(passages=cut), make_target(passages=cut)
        source.upsert([Document(id="a", text=" ".join(SENTENCES[:3]))])
        write, text = type(target.writer).write, " ".join(SENTENCES[3:])
        other = Interruption(lambda: target.upsert([Document(id="a", text=text)]))

        def late(writer, batch):
            failed = write(writer, batch)
            monkeypatch.undo()
            other()
            return failed

        monkeypatch.setattr(type(target.writer), "write", late)
        assert copy(source, target).failed == []
        other.finish()
        assert target.upsert([Document(id="a", text=text)]).unchanged == 1

    def test_what_cannot_be_kept_alike_is_refused(self, make_source, make_target, encoder, tmp_path):
        source = make_source()
        source.upsert(DOCUMENTS[:3])
        other = M3Encoder.from_pretrained(save_checkpoint(tmp_path / "other", layers=1))
        with pytest.raises(ModelMismatchError, match="holds vectors of .*, the encoder is"):
            copy(source, make_target(encoder=other))
        with pytest.raises(ValueError, match="must have one passages, the source has None, the target .*40"):
            copy(source, make_target(passages=Passages(size=40, overlap=8)))
        short = M3Encoder.from_pretrained(encoder.model, document_max_length=100)
        with pytest.raises(ValueError, match="must have one document_max_length, the source has 8192, the target 100"):
            copy(source, make_target(encoder=short))

    def test_what_the_target_does_not_take_is_named_and_the_rest_is_copied(self, source, make_target, monkeypatch):
        target = make_target()
        check, write = type(target.writer).check, type(target.writer).write

        def refuse(store, document):
            if document.id == "doc-7":
                raise ValueError("no room")
            check(store, document)

        def fail(store, batch):
            return [*(write(store, batch) or ()), *(("doc-9", "too large") for d in batch.documents if d.id == "doc-9")]

        acknowledged = []
        with monkeypatch.context() as patch:
            patch.setattr(type(target.writer), "check", refuse)
            patch.setattr(type(target.writer), "write", fail)
            report = copy(source, target, on_ack=acknowledged.extend)
        assert (report.written, sorted(report.failed)) == (68, [("doc-7", "no room"), ("doc-9", "too large")])
        assert not {"doc-7", "doc-9"} & set(acknowledged)

    def test_what_is_replaced_meanwhile_is_named_and_comes_with_the_next_run(self, source, make_target, monkeypatch):
        """Else an old text would be stored as the new one, and never be copied again."""
        target, scan = make_target(), type(source).scan
        changes = iter([True])

        def late(index, *arguments, **options):
            for pair in list(scan(index, *arguments, **options)):
                if index is source and next(changes, False):
                    source.upsert([replace(DOCUMENTS[2], text="another"), Document(id="late", text="late")])
                    source.update_metadata({"doc-4": {"n": 1}})
                    source.delete(["doc-6"])
                yield pair

        with monkeypatch.context() as patch:
            patch.setattr(type(source), "scan", late)
            report = copy(source, target)
        assert sorted(report.failed) == [("doc-2", copying.REPLACED), ("doc-4", copying.REPLACED)]
        assert report.written == 67
        assert copy(source, target).failed == []
        assert_same(source, target)

    @pytest.mark.parametrize(
        ("before", "after"), [(0, 1), (0, None), (None, 0)], ids=["others", "ours", "the caller's"]
    )
    def test_embeddings_that_are_replaced_meanwhile_come_with_the_next_run(
        self, make_source, make_target, encoder, monkeypatch, before, after
    ):
        """Else the old ones would be stored as the new ones, and never be copied again: the text is as it was."""
        source, target = make_source(), make_target()
        scan, rows = type(source).scan, encoder.encode_documents(SENTENCES[:2])
        document = Document(id="a", text="not what was encoded")

        def store(row: int | None) -> None:
            source.upsert([document], embeddings=None if row is None else rows[row])

        def late(index, *arguments, **options):
            pairs = list(scan(index, *arguments, **options))
            store(after)
            return iter(pairs)

        store(before)
        with monkeypatch.context() as patch:
            patch.setattr(type(source), "scan", late)
            report = copy(source, target)
        assert (report.written, report.failed) == (0, [("a", copying.REPLACED)])
        assert copy(source, target).written == 1
        assert_same(source, target)

    def test_an_interrupted_run_goes_on(self, source, make_target, monkeypatch):
        monkeypatch.setattr(copying, "DOCUMENTS_PER_BATCH", 20)
        target, stored = make_target(), []

        def stop(ids):
            stored.extend(ids)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            copy(source, target, on_ack=stop)
        assert {document.id for document in target.get(stored)} == set(stored) and len(stored) == 20
        report = copy(source, target)
        assert (report.written, report.unchanged) == (50, 20)
        assert_same(source, target)
