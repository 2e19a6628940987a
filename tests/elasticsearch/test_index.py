"""What goes into Elasticsearch comes out to the letter, by any client, and scans are of one moment."""

from contextlib import closing
from dataclasses import replace

import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, store
from m3plugins_elasticsearch.rows import rounded
from tests.core.indexing.index_suite import StoredIndexSuite, assert_only_itself, assert_to_the_letter, by_id
from tests.elasticsearch.conftest import Create
from tests.tiny import SENTENCES, random_documents

pytestmark = pytest.mark.elasticsearch9


class TestIndex(StoredIndexSuite):
    def weights_as_kept(self, values):
        return rounded(values)


LONG = {
    "40,000 characters": {"a": "x" * 40_000, "b": "🦊" * 40_000, "c": ["狐" * 40_000]},
    "names of 4,000 characters": {"k" * 4000: "v" * 40_000, "🦊" * 4000: {"🦊" * 4000: {"🦊" * 4000: "🦊" * 4000}}},
}


@pytest.mark.parametrize("metadata", LONG.values(), ids=LONG)
def test_long_metadata_come_back_to_the_letter(empty, metadata, embedding):
    document = Document(id="a", text="fox", metadata=metadata)
    assert empty.upsert([document], embeddings=embedding).failed == []
    assert_to_the_letter(empty, [document])


@pytest.mark.parametrize("value", ["x" * 512, "é" * 256], ids=["x", "é"])
def test_an_id_may_be_as_long_as_is_said(empty, encoder, value):
    assert_only_itself(empty, encoder, value)


def test_a_parent_is_found_by_a_native_query_until_it_is_replaced(empty):
    empty.upsert([Document(id="a", text="fox", parent_id="p")])
    assert empty.count({"term": {"parent_id": "p"}}) == 1
    empty.upsert([Document(id="a", text="fox")])
    assert empty.count({"term": {"parent_id": "p"}}) == 0


def test_delete_by_a_native_query(empty):
    empty.upsert(random_documents(12))
    assert empty.delete(filter={"term": {"metadata.number": "11"}}) == 1
    assert empty.count() == 11


TEXTS = ["", " \n\t ", "\x00", "x" * 40_000, "🦊" * 40_000, (SENTENCES[0] + " ") * 1600, SENTENCES[9] * 2000]


@pytest.fixture(scope="module", params=[None, "standard", {"type": "custom", "tokenizer": "standard"}], ids=str)
def any_kind(make: Create, request) -> ElasticsearchHybridIndex:
    """Without full-text search, and with it."""
    return make(bm25=request.param)


def test_texts_come_back_to_the_letter(any_kind, embedding):
    documents = [Document(id=str(number), text=text, title=text) for number, text in enumerate(TEXTS)]
    assert any_kind.upsert(documents, embeddings=[embedding] * len(TEXTS)).failed == []
    assert_to_the_letter(any_kind, documents)


# Scanning


@pytest.fixture
def sizes(monkeypatch):
    """How many hits each search gave."""
    search, found = Elasticsearch.search, []

    def counted(self, **options):
        answer = search(self, **options)
        found.append(len(answer["hits"]["hits"]))
        return answer

    monkeypatch.setattr(Elasticsearch, "search", counted)
    return found


def open_scans(index) -> int:
    stats = index._connection.client.indices.stats(index=index.name, metric="search")
    return stats["indices"][index.name]["total"]["search"]["open_contexts"]


def test_a_scan_reads_bounded_pages_and_only_as_many_as_are_asked_for(index, sizes):
    page = store.EMBEDDINGS_PER_READ
    assert len(list(index.scan(with_embeddings=True))) == 100
    assert sizes == [page] * (100 // page) + ([100 % page] if 100 % page else []) + [0]
    sizes.clear()
    documents = index.scan(with_embeddings=True)
    for _ in range(page + 1):
        next(documents)
    assert sizes == [page, page]
    documents.close()
    assert open_scans(index) == 0


def test_a_scan_sees_the_index_as_it_was_when_it_began(empty):
    before = random_documents(70)
    empty.upsert(before)
    documents = empty.scan(with_embeddings=True)
    seen = [next(documents)[0]]
    empty.delete([document.id for document in before[:30]])
    empty.upsert([replace(before[40], text="changed"), Document(id="new", text="new")])
    seen += [document for document, _ in documents]
    assert by_id(seen) == by_id(before)
    assert empty.count() == 41


# Clients and connections


def test_a_client_of_the_users_own_stays_open_and_as_it_was(encoder, es_url, es_name):
    """It serializes by the standard library, where ours uses orjson."""
    documents = [
        *random_documents(5),
        Document(id="odd", text="fox", metadata={"integers": [2**64 - 1, -(2**63)], "floats": [1e22, -0.0, 5e-324]}),
    ]
    with closing(Elasticsearch(es_url)) as client:
        with ElasticsearchHybridIndex.create(es_name, encoder=encoder, client=client) as index:
            assert index.upsert(documents).written == 6
            assert_to_the_letter(index, documents)
            done = index.update_metadata({"doc-1": {"n": 2**64 - 1}})
            assert (done.written, len(HybridRetriever(index).search("fox", k=9))) == (1, 6)
        assert client.count(index=es_name)["count"] == 6
        with ElasticsearchHybridIndex.open(es_name, encoder=encoder, client=client) as again:
            again.drop()
        assert not client.indices.exists(index=es_name)


def test_without_refresh_what_is_written_is_there_and_found_later(make: Create):
    documents = random_documents(12)
    index = make(refresh=False, settings={"refresh_interval": -1})
    assert index.upsert(documents).written == 12
    assert (index.count(), index.get(["doc-7"])) == (0, [documents[7]])
    assert index.upsert(documents).unchanged == 12
    assert index.update_metadata({"doc-7": {"n": 1}}).written == 1  # needs to find it, and does
    assert index.get(["doc-7"])[0].metadata == {"n": 1}
    index.upsert([Document(id="late", text="fox", metadata={"n": 2}, parent_id="p")])
    assert index.count(filters.eq("n", 2)) == 0
    assert index.delete(filter=filters.eq("n", 2)) == 1
    index.upsert([Document(id="late", text="fox", parent_id="p")])
    assert index.delete(parent_id="p") == 1
    index._connection.client.indices.refresh(index=index.name)
    assert index.count() == 12
