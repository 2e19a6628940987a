"""Blue and green: a second index for another model, an alias that moves, and searches that notice nothing."""

import threading

import pytest

from m3plugins import Document, HybridRetriever, M3Encoder, ModelMismatchError
from m3plugins.retrieval.reembedding import ReembedError
from m3plugins_milvus import MilvusHybridIndex
from tests.milvus.conftest import random_documents
from tests.tiny import save_checkpoint


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> M3Encoder:
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("other"), layers=1, hidden_size=16))


@pytest.fixture
def blue(create):
    index = create("blue")
    index.upsert(random_documents(60))
    index.swap("live")
    return index


def by_id(index):
    return {document.id: document for document in index.scan()}


def test_the_new_index_has_every_document_and_the_new_models_vectors(blue, other, encoder):
    acknowledged = []
    done = blue.reembed(other, into="green", on_ack=acknowledged.extend)
    with done.index as green:
        assert (done.report.written, done.report.compared, done.report.rescored) == (60, 60, 32)
        assert sorted(acknowledged) == sorted(by_id(blue))
        assert by_id(green) == by_id(blue)
        assert green.encoder is other
        assert len(HybridRetriever(green).search("fox", k=5)) == 5
    assert blue.count() == 60


def test_an_interrupted_run_goes_on_where_it_ended(blue, other):
    class Stop(Exception):
        pass

    stored = []

    def stop_after_the_first(ids):
        stored.extend(ids)
        raise Stop

    with pytest.raises(Stop):
        blue.reembed(other, into="green", on_ack=stop_after_the_first)
    done = blue.reembed(other, into="green")
    with done.index as green:
        assert done.report.unchanged >= len(stored) > 0
        assert by_id(green) == by_id(blue)


def test_changes_made_meanwhile_arrive(blue, other):
    changes = iter([True])

    def change(ids):
        if next(changes, False):
            blue.upsert([Document(id="doc-3", text="changed meanwhile"), Document(id="new", text="new")])
            blue.delete(["doc-4"])

    done = blue.reembed(other, into="green", on_ack=change)
    with done.index as green:
        assert by_id(green) == by_id(blue)
        assert "doc-4" not in by_id(green) and by_id(green)["doc-3"].text == "changed meanwhile"


def test_what_the_old_index_lost_since_the_last_run_goes(blue, other):
    blue.reembed(other, into="green").index.close()
    blue.delete(["doc-1", "doc-2"])
    done = blue.reembed(other, into="green")
    assert (done.report.deleted, done.report.written) == (2, 0)
    assert by_id(done.index) == by_id(blue)
    done.index.close()


def test_damaged_embeddings_do_not_pass(blue, other):
    with blue.reembed(other, into="green").index as green:
        rows = green._store.documents.fetch(next(green._store.documents.keys()), ["*"])
        swapped = list(rows.values())
        for row, donor in zip(swapped, [*swapped[1:], swapped[0]], strict=True):
            row["sparse"] = {**donor["sparse"]}
        green._store.documents.upsert(swapped)
    with pytest.raises(ReembedError, match="stored embeddings of 'doc-.*' score"):
        blue.reembed(other, into="green", sample=60)


def test_a_document_that_cannot_be_stored_is_named_and_nothing_is_switched(blue, other, monkeypatch):
    from m3plugins_milvus import store

    def refuse(document, tenant):
        if document.id == "doc-7":
            raise ValueError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(store, "check_document", refuse)
        with pytest.raises(ReembedError, match=r"1 documents could not be stored again \(doc-7: no room\)") as caught:
            blue.reembed(other, into="green")
    assert [failure.id for failure in caught.value.report.failed] == ["doc-7"]
    assert caught.value.report.written == 59


def test_the_target_must_be_another_index_of_that_model_and_these_options(blue, other, encoder, create):
    for own_name in ("blue", "live"):
        with pytest.raises(ValueError, match="into must name a new index, '.*' is this index"):
            blue.reembed(encoder, into=own_name)
    with pytest.raises(ModelMismatchError):
        create("of_the_old_model")
        blue.reembed(other, into="of_the_old_model")
    create("other_options", codec="binary")
    with pytest.raises(ValueError, match="is an index with other options than 'blue'"):
        blue.reembed(encoder, into="other_options")


def test_live_searches_see_one_model_each_and_no_error(blue, other, encoder, tmp_path):
    """Readers come by the alias, each with the encoder of the model it finds there."""
    uri = tmp_path / "m3.db"
    answers: list[tuple[str, int]] = []
    failures: list[BaseException] = []
    stop, swapped = threading.Event(), threading.Event()

    def search_once() -> None:
        for model in (encoder, other):
            try:
                with MilvusHybridIndex.open("live", encoder=model, uri=uri) as index:
                    hits = HybridRetriever(index).search("fox", k=5)
                    width = index.encoder.dim
                    answers.extend((index.name, width) for _ in hits)
                    if index.name == "green":
                        swapped.set()
            except ModelMismatchError:
                continue

    def read() -> None:
        while not stop.is_set():
            try:
                search_once()
            except BaseException as err:
                failures.append(err)
                return

    pinned = MilvusHybridIndex.open("live", encoder=encoder, uri=uri)
    before = [hit.score for hit in HybridRetriever(pinned).search("fox")]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with blue.reembed(other, into="green").index as green:
        assert green.swap("live") == "blue"
        assert swapped.wait(60)
        assert blue.swap("live") == "green"
        assert green.swap("live") == "blue"
        stop.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert set(answers) == {("blue", 32), ("green", 16)}
    assert [hit.score for hit in HybridRetriever(pinned).search("fox")] == before
    assert pinned.name == "blue"
    pinned.close()


def test_an_index_that_is_live_is_not_overwritten_by_a_late_repetition(blue, other):
    with blue.reembed(other, into="green").index as green:
        green.swap("live")
        green.upsert([Document(id="new", text="written after the swap")])
        with pytest.raises(ValueError, match="the alias live points at 'green', its changes would be lost"):
            blue.reembed(other, into="green")
        assert green.count() == 61


def test_an_index_that_an_alias_names_is_not_dropped(blue, other):
    with pytest.raises(ValueError, match="alias live points at 'blue'; swap it"):
        blue.drop()
    assert blue.count() == 60
    with blue.reembed(other, into="green").index as green:
        green.swap("live")
        blue.drop()
        assert green.count() == 60


def test_an_alias_cannot_have_the_name_of_a_collection(blue):
    with pytest.raises(ValueError, match="is a collection, so it cannot be an alias"):
        blue.swap("blue")
