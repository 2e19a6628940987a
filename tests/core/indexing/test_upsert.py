"""The road into an index, on the in-memory one: nothing lost, nothing stored twice, every failure named."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import Document, HybridIndex, InMemoryHybridIndex, M3Encoder, M3Output
from m3plugins.compression import get_codec
from m3plugins.indexing import FailedDocument, UpsertError, streaming
from m3plugins.indexing import in_memory as memory
from m3plugins.indexing import upsert as ingest
from m3plugins.indexing.upsert import check_embedding
from m3plugins.retrieval import filters
from tests.tiny import SENTENCES

DOCUMENTS = [Document(id=f"d{i}", text=text, metadata={"i": i}) for i, text in enumerate(SENTENCES)]


@pytest.fixture
def index(encoder: M3Encoder) -> InMemoryHybridIndex:
    return InMemoryHybridIndex(encoder=encoder)


def test_it_is_a_hybrid_index(index):
    assert isinstance(index, HybridIndex)


def test_second_run_finds_everything_unchanged(index):
    assert index.upsert(DOCUMENTS).written == 12
    report = index.upsert(DOCUMENTS)
    assert (report.written, report.unchanged, report.failed) == (0, 12, [])


@pytest.mark.parametrize(
    "change", [{"text": "new"}, {"title": "new"}, {"metadata": {"i": -1}}, {"parent_id": "p"}], ids=str
)
def test_a_change_of_any_field_is_written(index, change):
    index.upsert(DOCUMENTS)
    changed = Document(**{"id": "d3", "text": DOCUMENTS[3].text, "metadata": {"i": 3}, **change})
    assert index.upsert([changed]).written == 1
    assert index.get(["d3"]) == [changed]
    assert index.count() == 12


def test_of_two_documents_with_one_id_the_later_wins(index):
    acked = []
    report = index.upsert(
        [Document(id="a", text="old"), Document(id="b", text="b"), Document(id="a", text="new")], on_ack=acked.extend
    )
    assert report.written == 3
    assert index.get(["a"])[0].text == "new"
    assert sorted(acked) == ["a", "a", "b"]


def test_acknowledged_means_stored(index, monkeypatch):
    monkeypatch.setattr(streaming, "WINDOW", 5)
    acked = []

    def on_ack(ids):
        assert {document.id for document in index.get(ids)} == set(ids)
        acked.extend(ids)

    index.upsert(iter(DOCUMENTS), on_ack=on_ack)
    assert acked == [document.id for document in DOCUMENTS]
    index.upsert(iter(DOCUMENTS), on_ack=on_ack)
    assert len(acked) == 24


def test_bad_documents_are_reported_and_the_others_stored(index):
    bad = {
        "": "id must not be empty",
        "surrogate": "text must be valid Unicode, got a lone surrogate at character 2",
        "nan": "metadata.x must be a finite number, got nan",
        "set": "metadata.x must be JSON",
        "key": "metadata must have string keys, got 1",
        "deep": "must not nest deeper than 64",
        "number": "text must be a string, got int",
        "['list']": "id must be a string, got list",
    }
    deep = []
    for _ in range(100):
        deep = [deep]
    documents = [
        Document(id="", text="x"),
        Document(id="surrogate", text="ab\ud800"),
        Document(id="nan", text="x", metadata={"x": float("nan")}),
        Document(id="set", text="x", metadata={"x": {1}}),
        Document(id="key", text="x", metadata={1: "x"}),
        Document(id="deep", text="x", metadata={"x": deep}),
        Document(id="number", text=7),
        Document(id=["list"], text="x"),
    ]
    report = index.upsert([DOCUMENTS[0], *documents, DOCUMENTS[1]])
    assert report.written == index.count() == 2
    reasons = dict(report.failed)
    assert reasons.keys() == bad.keys()
    for i, rule in bad.items():
        assert rule in reasons[i]


@pytest.fixture
def fragile(encoder, monkeypatch):
    """Lets the encoder do something else with texts that have a word in them, once it has seen them."""

    def new(word, fail):
        encode = M3Encoder.iter_documents

        def iter_documents(self, texts):
            texts = list(texts)
            for first in range(0, len(texts), 5):  # outputs of some texts each, as of a long stream
                part = texts[first : first + 5]
                (output,) = encode(self, part)
                for row in (row for row, text in enumerate(part) if word in text):
                    fail(output, row)
                yield output

        monkeypatch.setattr(M3Encoder, "iter_documents", iter_documents)

    return new


def not_a_number(output, row):
    output.dense[row] = np.nan


def no_memory(output, row):
    raise MemoryError("no room\nfor that")


def test_what_the_model_makes_not_a_number_is_reported(index, fragile):
    fragile(SENTENCES[1], not_a_number)
    report = index.upsert(DOCUMENTS)
    assert report.written == 11
    assert [failure.id for failure in report.failed] == ["d1"]


@pytest.mark.parametrize("bad", [[0], [1, 2], [7], [11], [0, 4, 5, 11]], ids=str)
def test_documents_at_which_the_encoder_fails_are_reported_and_the_others_stored(index, fragile, bad):
    documents = [replace(d, text=f"poison {d.text}") if d.metadata["i"] in bad else d for d in DOCUMENTS]
    fragile("poison", no_memory)
    acked = []
    report = index.upsert(documents, on_ack=acked.extend)
    assert sorted(report.failed) == [
        FailedDocument(f"d{i}", "the encoder fails at it: MemoryError: no room for that") for i in sorted(bad, key=str)
    ]
    assert sorted(acked) == sorted(d.id for d in DOCUMENTS if d.metadata["i"] not in bad)
    assert report.written == index.count() == 12 - len(bad)


def test_a_batch_that_is_too_much_is_encoded_in_parts(index, encoder, monkeypatch):
    encode = M3Encoder.iter_documents

    def iter_documents(self, texts):
        if len(texts := list(texts)) > 3:
            raise MemoryError
        return encode(self, texts)

    monkeypatch.setattr(M3Encoder, "iter_documents", iter_documents)
    report = index.upsert(DOCUMENTS)
    assert (report.written, report.failed) == (12, [])


@pytest.mark.parametrize(
    ("fail", "error", "said"), [(no_memory, MemoryError, "no room"), (not_a_number, ValueError, "must be finite")]
)
@pytest.mark.parametrize("count", [1, 12])
def test_an_encoder_that_fails_at_every_text_is_an_error(index, fragile, fail, error, said, count):
    fragile("", fail)
    with pytest.raises(error, match=said):
        index.upsert(DOCUMENTS[:count])
    assert index.count() == 0


def test_ids_are_a_list_and_never_one_string(index):
    index.upsert([Document(id="a", text="a")])
    for call in (index.get, index.delete, lambda ids: index.score(None, ids)):
        with pytest.raises(TypeError, match="ids must be a list of strings"):
            call("abc")
    assert index.count() == 1


def test_the_index_does_not_change_with_the_callers_document(index):
    metadata = {"tags": ["a"]}
    index.upsert([Document(id="a", text="a", metadata=metadata)])
    metadata["tags"].append("b")
    assert index.get(["a"])[0].metadata == {"tags": ["a"]}


def test_given_embeddings_are_stored_as_they_are(index, encoder):
    embeddings = encoder.encode_documents(SENTENCES[::-1])  # not what the encoder would make of them
    report = index.upsert(DOCUMENTS, embeddings=[embeddings[:5], embeddings[5:]])
    assert report.written == 12
    stored = dict((document.id, row) for document, row in index.scan(with_embeddings=True))
    np.testing.assert_array_equal(stored["d0"].dense, embeddings[0].dense)
    assert index.upsert(DOCUMENTS, embeddings=embeddings).unchanged == 12
    assert index.upsert(DOCUMENTS).written == 12  # the encoder's own are others


def test_bad_embeddings_are_reported(index, encoder):
    good = encoder.encode_documents(SENTENCES[:2])
    bad = encoder.encode_documents(SENTENCES[2:3])
    bad.dense[0, 3] = np.nan
    headless = encoder.encode_documents(SENTENCES[3:4], heads=["dense"])
    narrow = encoder.encode_documents(SENTENCES[4:5])
    narrow = replace(narrow, dense=narrow.dense[:, :8])
    report = index.upsert(DOCUMENTS[:5], embeddings=[good, bad, headless, narrow])
    assert report.written == 2
    assert "must be as wide as the encoder's" in dict(report.failed)["d4"]
    reasons = dict(report.failed)
    assert "embeddings must be finite" in reasons["d2"]
    assert "all three heads" in reasons["d3"]


@pytest.mark.parametrize(("count", "short"), [(3, "embeddings"), (12, "documents")])
def test_embeddings_must_be_as_many_as_documents(index, encoder, count, short):
    documents = DOCUMENTS if short == "embeddings" else DOCUMENTS[:3]
    with pytest.raises(ValueError, match=f"the {short} ran out first"):
        index.upsert(documents, embeddings=encoder.encode_documents(SENTENCES[:count]))


def test_what_is_no_document_is_refused(index):
    with pytest.raises(TypeError, match="documents must be m3plugins.Document, got str"):
        index.upsert(["text"])


def test_truncated_documents_are_counted(checkpoint):
    index = InMemoryHybridIndex(encoder=M3Encoder.from_pretrained(checkpoint, document_max_length=8))
    report = index.upsert([Document(id="long", text="fox " * 99), Document(id="short", text="fox")])
    assert report.truncated == 1
    assert index.get(["long"])[0].text == "fox " * 99


class Refusing(memory._Store):
    """An engine that cannot store one document."""

    def write(self, batch):
        super().write(batch)
        return [FailedDocument(d.id, "refused") for d in batch.documents if d.id == "d5"]


def test_an_engine_that_fails_a_document_has_it_reported_and_not_acknowledged(encoder):
    acked = []
    report = ingest.ingest(DOCUMENTS, None, encoder=encoder, writer=Refusing(get_codec("binary")), on_ack=acked.extend)
    assert (report.written, report.failed) == (11, [FailedDocument("d5", "refused")])
    assert "d5" not in acked


def test_the_next_batch_is_encoded_while_the_last_one_is_written(encoder, monkeypatch):
    """The first write ends only once the second window is being encoded."""
    encoding, encode = threading.Event(), M3Encoder.iter_documents

    class Waiting(memory._Store):
        def write(self, batch):
            assert encoding.wait(60)
            super().write(batch)

    def iter_documents(self, texts):
        texts = list(texts)
        if SENTENCES[-1] in texts:
            encoding.set()
        return encode(self, texts)

    monkeypatch.setattr(streaming, "WINDOW", 6)
    monkeypatch.setattr(M3Encoder, "iter_documents", iter_documents)
    assert ingest.ingest(DOCUMENTS, None, encoder=encoder, writer=Waiting(get_codec("binary"))).written == 12


def test_a_document_that_changes_and_changes_back_is_as_it_was(index):
    """The second change is compared with the first, which is still being written, not with what was there."""
    index.upsert([Document(id="a", text="old")])
    report = index.upsert([Document(id="a", text="new"), Document(id="a", text="old")])
    assert report.written == 2
    assert index.get(["a"])[0].text == "old"


def test_what_was_written_before_an_error_is_acknowledged(index, monkeypatch):
    def documents():
        yield from DOCUMENTS[:5]
        raise OSError("the source broke")

    monkeypatch.setattr(streaming, "WINDOW", 2)
    acked = []
    with pytest.raises(OSError, match="the source broke"):
        index.upsert(documents(), on_ack=acked.extend)
    assert acked == [d.id for d in index.scan()] == ["d0", "d1", "d2", "d3"]


def test_delete_by_ids_and_by_filter(index):
    index.upsert(DOCUMENTS)
    assert index.delete(ids=["d0", "d0", "nobody"]) == 1
    assert index.delete(filter=filters.gte("i", 10)) == 2
    assert index.count() == 9
    for arguments in ({}, {"ids": [], "filter": filters.exists("i")}):
        with pytest.raises(ValueError, match="exactly one of ids, filter, parent_id"):
            index.delete(**arguments)


def test_get_keeps_the_order_asked_for_and_leaves_unknown_ids_out(index):
    index.upsert(DOCUMENTS)
    assert [document.id for document in index.get(["d7", "nobody", "d2"])] == ["d7", "d2"]


def test_scan_and_count_take_filters(index):
    index.upsert(DOCUMENTS)
    tree = filters.in_("i", [1, 4])
    assert {document.id for document in index.scan(tree)} == {"d1", "d4"}
    assert index.count(tree) == 2


def test_a_closed_index_says_so(index):
    index.close()
    with pytest.raises(ValueError, match="closed"):
        index.count()


def test_empty_documents_are_documents(index, encoder: M3Encoder):
    report = index.upsert([Document(id="empty", text="")])
    assert report.written == 1
    embedding: M3Output = next(index.scan(with_embeddings=True))[1]
    assert len(embedding.sparse[0]) == 0


def test_who_has_no_report_to_give_can_raise_what_failed(index):
    report = index.upsert([*DOCUMENTS, *(Document(id=f"bad{i}", text="\ud800") for i in range(7)), DOCUMENTS[0]])
    with pytest.raises(UpsertError, match="7 documents were not stored, 13 were: 'bad0': text must be valid") as caught:
        report.raise_for_failed()
    assert caught.value.report is report
    assert "'bad4': " in str(caught.value) and "'bad5'" not in str(caught.value)
    assert str(caught.value).endswith("; and 2 more, in report.failed")


def test_a_report_without_failures_raises_nothing(index):
    index.upsert(DOCUMENTS).raise_for_failed()


@given(st.floats(0.0, 3.0))
def test_dense_vectors_that_are_not_of_unit_length_are_refused(encoder, embedding, length):
    scaled = replace(embedding, dense=(embedding.dense * length).astype(np.float32))
    if abs(length * length - 1) > 1.01e-3:
        with pytest.raises(ValueError, match="must be of unit length, got"):
            check_embedding(scaled, encoder)
    elif abs(length * length - 1) < 0.99e-3:
        check_embedding(scaled, encoder)
