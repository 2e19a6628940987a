"""Blue and green, on any engine: an index for another model, an alias that moves, searches that notice nothing."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, M3Encoder, ModelMismatchError
from m3plugins.encoding import HEADS, Passages
from m3plugins.indexing import IndexNotFoundError
from m3plugins.indexing.reembed import ReembedError
from m3plugins.indexing.writer import EmbeddedBatch
from tests.tiny import SENTENCES, random_documents, save_checkpoint

COUNT = 40


def by_id(index: HybridIndex) -> dict[str, Document]:
    return {document.id: document for document in index.scan()}


class ReembedSuite:
    """Subclasses have the fixtures `make` and `reopen` of an engine, of indexes by their names, and `named`.

    The latter makes a name of the test's own of a short one.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def other(cls, tmp_path_factory) -> M3Encoder:
        return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("other"), layers=1, hidden_size=16))

    @pytest.fixture
    def blue(self, make, named):
        index = make(named("blue"))
        index.upsert(random_documents(COUNT))
        index.swap(named("live"))
        return index

    @pytest.fixture
    def live(self, named):
        return named("live")

    @pytest.fixture
    def green_name(self, named):
        return named("green")

    def test_the_new_index_has_every_document_and_the_new_models_vectors(self, blue, other, green_name):
        acknowledged = []
        done = blue.reembed(other, into=green_name, on_ack=acknowledged.extend)
        with done.index as green:
            assert (done.report.written, done.report.compared, done.report.rescored) == (COUNT, COUNT, 32)
            assert sorted(acknowledged) == sorted(by_id(blue))
            assert by_id(green) == by_id(blue)
            assert green.encoder is other
            assert len(HybridRetriever(green).search("fox", k=5)) == 5
        assert blue.count() == COUNT

    def test_the_new_index_has_the_options_of_the_old_one(self, make, named, other, green_name):
        index = make(named("blue"), codec="binary", bm25="standard")
        index.upsert(random_documents(5))
        with index.reembed(other, into=green_name).index as green:
            assert green.identity == index.identity.of_another(other)

    def test_an_interrupted_run_goes_on_where_it_ended(self, blue, other, green_name):
        class Stop(Exception):
            pass

        stored = []

        def stop_after_the_first(ids):
            stored.extend(ids)
            raise Stop

        with pytest.raises(Stop):
            blue.reembed(other, into=green_name, on_ack=stop_after_the_first)
        done = blue.reembed(other, into=green_name)
        with done.index as green:
            assert done.report.unchanged >= len(stored) > 0
            assert by_id(green) == by_id(blue)

    def test_changes_made_meanwhile_arrive(self, blue, other, green_name):
        changes = iter([True])

        def change(ids):
            if next(changes, False):
                blue.upsert([Document(id="doc-3", text="changed meanwhile"), Document(id="new", text="new")])
                blue.delete(["doc-4"])

        with blue.reembed(other, into=green_name, on_ack=change).index as green:
            assert by_id(green) == by_id(blue)
            assert "doc-4" not in by_id(green) and by_id(green)["doc-3"].text == "changed meanwhile"

    def test_a_document_that_is_replaced_meanwhile_is_copied_as_a_whole(
        self, make, named, other, green_name, monkeypatch
    ):
        """The run looks at it when half of its passages are new, and waits for the others."""
        cut = Passages(size=40, overlap=8)
        blue = make(named("blue"), passages=cut)
        blue.upsert([Document(id="a", text=" ".join(SENTENCES[:4]))])
        kind, waits, made = type(blue.writer), threading.Event(), []
        write, holding = kind.write, kind.holding

        def run() -> None:
            with blue.reembed(other, into=green_name, sample=0).index as green:
                made.append(by_id(green))
            waits.set()

        def held(writer, ids):
            if threading.current_thread() is reembedding:
                waits.set()
            return holding(writer, ids)

        def halves(writer, batch):
            monkeypatch.setattr(kind, "write", write)
            write(writer, EmbeddedBatch(batch.documents[:1], batch.digests[:1], batch.embeddings[:1]))
            reembedding.start()
            assert waits.wait(60)
            return write(writer, EmbeddedBatch(batch.documents[1:], batch.digests[1:], batch.embeddings[1:]))

        reembedding = threading.Thread(target=run)
        monkeypatch.setattr(kind, "write", halves)
        monkeypatch.setattr(kind, "holding", held)
        blue.upsert([Document(id="a", text=" ".join(SENTENCES[4:]))])
        reembedding.join(60)
        assert made == [by_id(blue)]

    def test_what_the_old_index_lost_since_the_last_run_goes(self, blue, other, green_name):
        blue.reembed(other, into=green_name).index.close()
        blue.delete(["doc-1", "doc-2"])
        done = blue.reembed(other, into=green_name)
        with done.index as green:
            assert (done.report.deleted, done.report.written) == (2, 0)
            assert by_id(green) == by_id(blue)

    @pytest.mark.parametrize("heads", [("sparse",), HEADS], ids=["sparse", "all"])
    def test_damaged_embeddings_do_not_pass(self, blue, other, green_name, heads):
        with blue.reembed(other, into=green_name).index as green:
            stored = list(green.scan(with_embeddings=True))
            digests = green.writer.digests([document.id for document, _ in stored])
            for (document, own), (_, donor) in zip(stored, [*stored[1:], stored[0]], strict=True):
                wrong = donor if heads == HEADS else replace(own, sparse=donor.sparse)
                green.writer.write(EmbeddedBatch([document], [digests[document.id]], wrong))
            green.writer.flush()
        with pytest.raises(ReembedError, match="stored embeddings of 'doc-.*' score"):
            blue.reembed(other, into=green_name, sample=COUNT)

    def test_a_document_that_cannot_be_stored_is_named_and_nothing_is_switched(
        self, blue, other, green_name, monkeypatch
    ):
        check = type(blue.writer).check

        def refuse(store, document):
            if document.id == "doc-7":
                raise ValueError("no room")
            check(store, document)

        with monkeypatch.context() as patch:
            patch.setattr(type(blue.writer), "check", refuse)
            with pytest.raises(
                ReembedError, match=r"1 documents could not be stored again \(doc-7: no room\)"
            ) as caught:
                blue.reembed(other, into=green_name)
        assert [failure.id for failure in caught.value.report.failed] == ["doc-7"]
        assert caught.value.report.written == COUNT - 1

    def test_the_target_must_be_another_index_of_that_model_and_these_options(
        self, blue, other, encoder, make, named, live
    ):
        for own_name in (blue.name, live):
            with pytest.raises(ValueError, match="into must name a new index, '.*' is this index"):
                blue.reembed(encoder, into=own_name)
        with pytest.raises(ModelMismatchError):
            blue.reembed(other, into=make(named("of_the_old_model")).name)
        with pytest.raises(ValueError, match=f"is an index with other options than '{blue.name}'"):
            blue.reembed(encoder, into=make(named("other_options"), codec="int8").name)

    def test_live_searches_see_one_model_each_and_no_error(self, blue, other, encoder, reopen, live, green_name):
        """Readers come by the alias, each with the encoder of the model it finds there."""
        answers: list[tuple[str, int]] = []
        failures: list[BaseException] = []
        stop, swapped = threading.Event(), threading.Event()

        def search_once() -> None:
            for model in (encoder, other):
                try:
                    with reopen(live, encoder=model) as index:
                        hits = HybridRetriever(index).search("fox", k=5)
                        answers.extend((index.name, index.encoder.dim) for _ in hits)
                        if index.name == green_name:
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

        pinned = reopen(live)
        before = [hit.score for hit in HybridRetriever(pinned).search("fox")]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            with blue.reembed(other, into=green_name).index as green:
                assert green.swap(live) == blue.name
                assert swapped.wait(60)
                assert blue.swap(live) == green.name
                assert green.swap(live) == blue.name
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not failures
        assert set(answers) == {(blue.name, 32), (green_name, 16)}
        assert [hit.score for hit in HybridRetriever(pinned).search("fox")] == before
        assert pinned.name == blue.name
        pinned.close()

    def test_an_index_that_is_live_is_not_overwritten_by_a_late_repetition(self, blue, other, live, green_name):
        with blue.reembed(other, into=green_name).index as green:
            green.swap(live)
            green.upsert([Document(id="new", text="written after the swap")])
            lost = f"the alias {live} points at '{green_name}', its changes would be lost"
            with pytest.raises(ValueError, match=lost):
                blue.reembed(other, into=green_name)
            assert green.count() == COUNT + 1

    def test_an_index_that_an_alias_names_is_not_dropped(self, blue, make, reopen, live, green_name):
        with pytest.raises(ValueError, match=f"alias {live} points at '{blue.name}'; swap it"):
            blue.drop()
        assert blue.count() == COUNT
        green = make(green_name)
        green.upsert([Document(id="new", text="fox")])
        assert green.swap(live) == blue.name
        blue.drop()
        with pytest.raises(ValueError, match="closed"):
            blue.count()
        with pytest.raises(IndexNotFoundError):
            reopen(blue.name)
        assert green.count() == 1

    def test_the_name_of_a_dropped_index_is_free(self, make, named):
        index = make(named("again"))
        index.upsert([Document(id="a", text="fox")])
        index.drop()
        assert make(named("again")).count() == 0

    def test_an_alias_cannot_have_the_name_of_an_index(self, blue, make, green_name):
        for name in (blue.name, make(green_name).name):
            with pytest.raises(ValueError, match="is an? (index|collection), so it cannot be an alias"):
                blue.swap(name)
