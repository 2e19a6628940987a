"""Blue and green: a second index for another model, an alias that moves, and searches that notice nothing."""

import threading
from contextlib import closing

import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever, M3Encoder, ModelMismatchError
from m3plugins.retrieval import IndexNotFoundError
from m3plugins.retrieval.reembedding import ReembedError
from m3plugins_elasticsearch import ElasticsearchHybridIndex, store
from tests.milvus.conftest import random_documents
from tests.tiny import save_checkpoint

COUNT = 40


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> M3Encoder:
    return M3Encoder.from_pretrained(save_checkpoint(tmp_path_factory.mktemp("other"), layers=1, hidden_size=16))


@pytest.fixture
def create(encoder, es_url, es_name):
    """Makes indexes with names of this test's own."""
    made = []

    def new(name, **options):
        index = ElasticsearchHybridIndex.create(f"{es_name}-{name}", encoder=encoder, uri=es_url, **options)
        made.append(index)
        return index

    yield new
    for index in made:
        index.close()


@pytest.fixture
def blue(create, live):
    index = create("blue")
    index.upsert(random_documents(COUNT))
    index.swap(live)
    return index


@pytest.fixture
def live(es_name):
    return f"{es_name}-live"


@pytest.fixture
def green_name(es_name):
    return f"{es_name}-green"


def by_id(index):
    return {document.id: document for document in index.scan()}


def test_the_new_index_has_every_document_and_the_new_models_vectors(blue, other, green_name):
    acknowledged = []
    done = blue.reembed(other, into=green_name, on_ack=acknowledged.extend)
    with done.index as green:
        assert (done.report.written, done.report.compared, done.report.rescored) == (COUNT, COUNT, 32)
        assert sorted(acknowledged) == sorted(by_id(blue))
        assert by_id(green) == by_id(blue)
        assert green.encoder is other
        assert len(HybridRetriever(green).search("fox", k=5)) == 5
    assert blue.count() == COUNT


def test_the_new_index_has_the_options_of_the_old_one(create, other, green_name):
    analyzer = {"type": "standard", "stopwords": ["the"]}
    options = {"codec": "binary", "dense_index": "flat", "bm25": analyzer, "metadata_fields": {"n": {"type": "long"}}}
    index = create("blue", settings={"number_of_shards": 2, "refresh_interval": "7s"}, refresh=False, **options)
    index.upsert(random_documents(5))
    with index.reembed(other, into=green_name).index as green:
        assert green.identity == index.identity.of_another(other)
        settings = green._connection.client.indices.get_settings(index=green.name)[green.name]["settings"]["index"]
        assert (settings["number_of_shards"], settings["refresh_interval"]) == ("2", "7s")
        assert settings["analysis"]["analyzer"]["m3_bm25"] == analyzer
        assert by_id(green).keys() == {document.id for document in random_documents(5)}
        assert green._store.refresh is False


def test_an_interrupted_run_goes_on_where_it_ended(blue, other, green_name):
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


def test_changes_made_meanwhile_arrive(blue, other, green_name):
    changes = iter([True])

    def change(ids):
        if next(changes, False):
            blue.upsert([Document(id="doc-3", text="changed meanwhile"), Document(id="new", text="new")])
            blue.delete(["doc-4"])

    done = blue.reembed(other, into=green_name, on_ack=change)
    with done.index as green:
        assert by_id(green) == by_id(blue)
        assert "doc-4" not in by_id(green) and by_id(green)["doc-3"].text == "changed meanwhile"


def test_what_the_old_index_lost_since_the_last_run_goes(blue, other, green_name):
    blue.reembed(other, into=green_name).index.close()
    blue.delete(["doc-1", "doc-2"])
    done = blue.reembed(other, into=green_name)
    assert (done.report.deleted, done.report.written) == (2, 0)
    assert by_id(done.index) == by_id(blue)
    done.index.close()


def test_damaged_embeddings_do_not_pass(blue, other, green_name):
    with blue.reembed(other, into=green_name).index as green:
        stored = list(green.scan(with_embeddings=True))
        digests = green.writer.digests([document.id for document, _ in stored])
        for (document, _), (_, donor) in zip(stored, [*stored[1:], stored[0]], strict=True):
            green.writer.write(store.Batch([document], [digests[document.id]], donor))
    with pytest.raises(ReembedError, match="stored embeddings of 'doc-.*' score"):
        blue.reembed(other, into=green_name, sample=COUNT)


def test_a_document_that_cannot_be_stored_is_named_and_nothing_is_switched(blue, other, green_name, monkeypatch):
    def refuse(document):
        if document.id == "doc-7":
            raise ValueError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(store, "check_document", refuse)
        with pytest.raises(ReembedError, match=r"1 documents could not be stored again \(doc-7: no room\)") as caught:
            blue.reembed(other, into=green_name)
    assert [failure.id for failure in caught.value.report.failed] == ["doc-7"]
    assert caught.value.report.written == COUNT - 1


def test_the_target_must_be_another_index_of_that_model_and_these_options(blue, other, encoder, create, live):
    for own_name in (blue.name, live):
        with pytest.raises(ValueError, match="into must name a new index, '.*' is this index"):
            blue.reembed(encoder, into=own_name)
    with pytest.raises(ModelMismatchError):
        blue.reembed(other, into=create("of-the-old-model").name)
    with pytest.raises(ValueError, match=f"is an index with other options than '{blue.name}'"):
        blue.reembed(encoder, into=create("other-options", codec="binary").name)


def test_live_searches_see_one_model_each_and_no_error(blue, other, encoder, es_url, live, green_name):
    """Readers come by the alias, each with the encoder of the model it finds there."""
    answers: list[tuple[str, int]] = []
    failures: list[BaseException] = []
    stop, swapped = threading.Event(), threading.Event()

    def search_once() -> None:
        for model in (encoder, other):
            try:
                with ElasticsearchHybridIndex.open(live, encoder=model, uri=es_url) as index:
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

    pinned = ElasticsearchHybridIndex.open(live, encoder=encoder, uri=es_url)
    before = [hit.score for hit in HybridRetriever(pinned).search("fox")]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with blue.reembed(other, into=green_name).index as green:
        assert green.swap(live) == blue.name
        assert swapped.wait(60)
        assert blue.swap(live) == green.name
        assert green.swap(live) == blue.name
        stop.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert set(answers) == {(blue.name, 32), (green_name, 16)}
    assert [hit.score for hit in HybridRetriever(pinned).search("fox")] == before
    assert pinned.name == blue.name
    pinned.close()


def test_an_index_that_is_live_is_not_overwritten_by_a_late_repetition(blue, other, live, green_name):
    with blue.reembed(other, into=green_name).index as green:
        green.swap(live)
        green.upsert([Document(id="new", text="written after the swap")])
        with pytest.raises(ValueError, match=f"the alias {live} points at '{green_name}', its changes would be lost"):
            blue.reembed(other, into=green_name)
        assert green.count() == COUNT + 1


def test_an_index_that_an_alias_names_is_not_dropped(blue, create, encoder, es_url, live):
    with pytest.raises(ValueError, match=f"alias {live} points at '{blue.name}'; swap it"):
        blue.drop()
    assert blue.count() == COUNT
    green = create("green")
    assert green.swap(live) == blue.name
    name = blue.name
    blue.drop()
    with pytest.raises(ValueError, match="closed"):
        blue.count()
    with pytest.raises(IndexNotFoundError):
        ElasticsearchHybridIndex.open(name, encoder=encoder, uri=es_url)
    assert green.count() == 0


def test_a_dropped_index_leaves_nothing_and_its_name_is_free(create, es_url, es_name):
    create("again").drop()
    with closing(Elasticsearch(es_url)) as client:
        assert client.indices.get(index=f"*{es_name}*", expand_wildcards="all").body == {}
    assert create("again").count() == 0


def test_an_alias_cannot_have_the_name_of_an_index(blue, create):
    for name in (blue.name, create("green").name):
        with pytest.raises(ValueError, match="is an index, so it cannot be an alias"):
            blue.swap(name)


def test_a_swap_takes_the_alias_from_every_index_that_had_it(blue, create, live):
    second, third = create("second"), create("third")
    second._connection.client.indices.put_alias(index=second.name, name=live)
    assert third.swap(live) == f"{blue.name}, {second.name}"
    assert third.swap(live) == third.name
    assert blue.swap(live) == third.name
