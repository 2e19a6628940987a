"""What an index must do on any Milvus, on the one that M3_TEST_MILVUS_URI names.

    M3_TEST_MILVUS_URI=http://localhost:19530 M3_TEST_MILVUS_TOKEN=root:Milvus pytest -m integration tests/milvus

A path that ends in `.db` runs the same on Milvus Lite. Collections have names of their own and are dropped.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3plugins import Document, HybridRetriever, M3Encoder
from m3plugins.indexing.filters import matches
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusHybridIndex, MilvusIndexError, requests
from m3plugins_milvus.blocks import block_row
from m3plugins_milvus.client import connect
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.filters import Plan
from m3plugins_milvus.schema import MAX_VARCHAR, blocks_index, blocks_schema
from tests.core.retrieval.ranking_suite import QUERIES, assert_same_hits, in_memory
from tests.milvus.test_filters import metadata, slow, trees
from tests.milvus.test_index import INJECTIONS
from tests.tiny import random_documents

URI, TOKEN = os.environ.get("M3_TEST_MILVUS_URI", ""), os.environ.get("M3_TEST_MILVUS_TOKEN")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not URI, reason="M3_TEST_MILVUS_URI names no Milvus (http://localhost:19530, or a .db path)"),
]

Make = Callable[..., MilvusHybridIndex]


def unique_name() -> str:
    return f"m3_test_{uuid.uuid4().hex[:16]}"


@pytest.fixture(scope="module")
def make(encoder: M3Encoder) -> Iterator[Make]:
    made: list[MilvusHybridIndex] = []

    def new(**options: object) -> MilvusHybridIndex:
        made.append(MilvusHybridIndex.create(unique_name(), encoder=encoder, uri=URI, token=TOKEN, **options))
        return made[-1]

    yield new
    for index in made:
        index.drop()


@pytest.fixture
def rows() -> Iterator[Collection]:
    """A collection of blocks, without an index around it."""
    connection = connect(URI, TOKEN)
    collection = Collection(connection, unique_name())
    connection.client.create_collection(**requests.create(collection.name, blocks_schema(), blocks_index()))
    yield collection
    collection.drop()
    connection.close()


def reopened(index: MilvusHybridIndex, name: str | None = None) -> MilvusHybridIndex:
    return MilvusHybridIndex.open(name or index.name, encoder=index.encoder, uri=URI, token=TOKEN)


def test_documents_come_back_as_they_went_in(index, documents):
    def by_id(found):
        return sorted(found, key=lambda document: document.id)

    assert index.count() == len(documents)
    assert (
        by_id(index.scan()) == by_id(document for document, _ in index.scan(with_embeddings=True)) == by_id(documents)
    )
    assert index.get(["doc-7", "nope", "doc-3"]) == [documents[7], documents[3]]
    assert index.upsert(documents).unchanged == len(documents)


def test_embeddings_come_back_as_they_went_in(make, documents, encoder):
    index = make(codec="int8")
    index.upsert(documents)
    expected = encoder.encode_documents([document.content for document in documents])
    position = {document.id: row for row, document in enumerate(documents)}
    for document, stored in index.scan(with_embeddings=True):
        row = position[document.id]
        np.testing.assert_allclose(stored.dense, expected[row].dense, atol=1e-6)
        assert stored.sparse[0].to_dict() == pytest.approx(expected.sparse[row].to_dict(), abs=1e-6)
        np.testing.assert_allclose(stored.multi_vector[0], expected.multi_vector[row], atol=0.005)
        assert index.embeddings([document.id])[document.id].digest() == stored.digest()


def test_a_replaced_document_keeps_nothing_of_the_old_one(empty):
    empty.upsert([Document(id="a", text="fox", metadata={"year": 2020}, parent_id="p", title="t")])
    for document in (Document(id="a", text="fox"), Document(id="a", text="dog", metadata={"n": 1.5})):
        assert empty.upsert([document]).written == 1
        assert (empty.get(["a"]), empty.count()) == ([document], 1)
        assert [empty.count(wanted) for wanted in (filters.exists("year"), filters.gt("year", 0))] == [0, 0]


def test_deleted_documents_are_gone_at_once(empty):
    empty.upsert(random_documents(30))
    assert empty.delete(["doc-0", "doc-0", "nope"]) == 1
    assert empty.delete(filter=filters.lt("number", 10)) == 9
    assert {document.metadata["number"] for document in empty.scan()} == set(range(10, 30))
    assert empty.count() == 20
    assert empty.sweep() == 0


@pytest.mark.parametrize("value", INJECTIONS)
def test_ids_are_never_read_as_expressions(empty, encoder, value):
    odd = Document(id=value, text="odd", metadata={"field": value[:1000]}, parent_id=value)
    assert empty.upsert([Document(id="a", text="fox"), Document(id="b", text="dog"), odd]).failed == []
    assert empty.get([value]) == [odd]
    assert value in empty.score(encoder.encode_queries(["odd"]), [value])
    assert [d.id for d in empty.scan(filters.eq("field", value[:1000]))] == [value]
    assert empty.delete([value]) == 1
    assert sorted(d.id for d in empty.scan()) == ["a", "b"]


@given(rows=st.lists(metadata, min_size=20, max_size=20), trees=st.lists(trees, min_size=10, max_size=10))
@settings(slow, max_examples=10)
def test_filters_agree_with_their_definition(empty, embedding, encoder, rows, trees):
    documents = [Document(id=str(number), text="same", metadata=row) for number, row in enumerate(rows)]
    assert not empty.upsert(documents, embeddings=[embedding] * len(documents)).failed
    query = encoder.encode_queries(["The quick brown fox"])
    for tree in trees:
        wanted = {document.id for document in documents if matches(tree, document.metadata)}
        assert {document.id for document in empty.scan(tree)} == wanted
        assert empty.count(tree) == len(wanted)
        for hits in empty.candidates(query, 20, tree).values():
            assert {hit.id for hit in hits} == wanted


def test_expressions_of_milvus_pass_through_and_wrong_ones_are_one_clear_error(index, capfd, caplog):
    assert index.count('metadata["number"] < 10 and id != "doc-0"') == 9
    with pytest.raises(MilvusIndexError, match="cannot "):
        index.count("bad (((")
    assert "Traceback" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize("fusion", ["weighted", "rrf"])
def test_ranks_as_brute_force_does(index, fusion):
    options = {"candidates": 100, "multi_vector_depth": 100, "fusion": fusion}
    engine, brute_force = HybridRetriever(index, **options), HybridRetriever(in_memory(index), **options)
    for wanted in (None, filters.eq("lang", "ja"), filters.gte("number", 90)):
        for query in QUERIES[::3]:
            got, expected = (retriever.search(query, 8, filter=wanted) for retriever in (engine, brute_force))
            if fusion == "weighted":
                assert_same_hits(got, expected)
            else:
                assert [hit.id for hit in got] == [hit.id for hit in expected]


def test_candidates_and_scores_are_those_of_brute_force(index, encoder):
    oracle = in_memory(index)
    for text in QUERIES:
        query = encoder.encode_queries([text])
        got, expected = index.candidates(query, 10), oracle.candidates(query, 10)
        for head in ("dense", "sparse"):
            assert [hit.score for hit in got[head]] == pytest.approx([hit.score for hit in expected[head]], abs=1e-5)
        ids = [hit.id for hits in expected.values() for hit in hits]
        exact = oracle.score(query, ids)
        for i, scores in index.score(query, ids).items():
            for head in ("dense", "sparse", "multi_vector"):
                assert getattr(scores, head) == pytest.approx(getattr(exact[i], head), abs=1e-5)


def test_equal_scores_come_in_the_order_of_ids(empty, embedding, encoder):
    ids = [f"{number:02}" for number in range(40)]
    empty.upsert([Document(id=i, text="same") for i in reversed(ids)], embeddings=[embedding] * 40)
    for head in empty.candidates(encoder.encode_queries(["The quick brown fox"]), 7).values():
        assert [hit.id for hit in head] == ids[:7]


@pytest.mark.parametrize("character", ["a", "狐"])
def test_text_of_any_length_is_whole(empty, embedding, character):
    size = len(character.encode())
    lengths = [MAX_VARCHAR // size, MAX_VARCHAR // size + 1, 3 * MAX_VARCHAR // size + 5]
    documents = [Document(id=str(n), text=character * n) for n in lengths]
    assert empty.upsert(documents, embeddings=[embedding] * 3).failed == []
    assert empty.get([document.id for document in documents]) == documents


def test_a_text_of_many_tokens_has_many_blocks_and_exact_scores(empty, encoder):
    document = Document(id="long", text="fox dog river " * 5000)
    assert empty.upsert([document]).truncated == 1
    query = encoder.encode_queries(["fox dog"])
    scores = empty.score(query, ["long"])["long"]
    assert scores.multi_vector == pytest.approx(in_memory(empty).score(query, ["long"])["long"].multi_vector, abs=1e-5)
    empty.upsert([replace(document, text="short")])
    assert empty.sweep() == 0


def test_metadata_changes_without_encoding(empty):
    empty.upsert([Document(id="a", text="fox", metadata={"n": 1, "old": True})])
    empty.update_metadata({"a": {"n": 2}})
    assert empty.count(filters.eq("n", 2)) == 1
    assert empty.count(filters.eq("n", 1)) == 0
    assert empty.get(["a"])[0].text == "fox"


def test_an_alias_opens_the_index_that_it_names_now(make, encoder):
    old, new, alias = make(), make(), unique_name()
    old.upsert([Document(id="a", text="old")])
    new.upsert([Document(id="a", text="new")])
    try:
        for current, text in ((old, "old"), (new, "new")):
            current.swap(alias)
            with reopened(old, alias) as index:
                assert (index.name, index.get(["a"])[0].text) == (current.name, text)
    finally:
        old._connection.client.drop_alias(alias)


def test_what_one_client_wrote_the_other_sees_at_once(make, embedding):
    writer = make()
    with reopened(writer) as reader:
        for turn in range(10):
            writer.upsert([Document(id="a", text=f"turn {turn}")], embeddings=embedding)
            assert reader.get(["a"])[0].text == f"turn {turn}"
            assert [hit.id for hit in reader.candidates(embedding, 1)["dense"]] == ["a"]
        writer.delete(["a"])
        assert (reader.count(), reader.candidates(embedding, 1)["dense"]) == (0, [])


def test_two_clients_write_at_once(make):
    first = make()
    halves = [[Document(id=f"{n}-{i}", text=f"text {i}") for i in range(40)] for n in range(2)]
    with reopened(first) as second:
        threads = [
            threading.Thread(target=index.upsert, args=(half,))
            for index, half in zip((first, second), halves, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.count() == second.count() == 80
        assert {document.id for document in first.scan()} == {d.id for half in halves for d in half}


def test_there_is_no_limit_on_rows(rows):
    keys = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(20_000)]
    rows.upsert(block_row(key, str(n)) for n, key in enumerate(keys))
    pages = list(rows.keys())
    assert sorted(key for page in pages for key in page) == sorted(keys)
    assert len(pages) > 1
    assert rows.count() == 20_000
    assert {key: row["data"] for key, row in rows.fetch(keys, ["data"]).items()} == {
        k: str(n) for n, k in enumerate(keys)
    }
    rows.delete(keys[:15_000])
    assert rows.count() == 5_000


def test_there_is_no_limit_on_bytes(rows):
    """50 MB, most of them three bytes a character: more than an RPC or an answer may have."""
    texts = {f"{n:032x}": ("狐" if n % 2 else "x") * (MAX_VARCHAR // 3) for n in range(1200)}
    rows.upsert(block_row(key, text) for key, text in texts.items())
    assert {key: row["data"] for key, row in rows.fetch(list(texts), ["data"]).items()} == texts


@pytest.mark.parametrize("consistency", ["Strong", "Session", "Bounded", "Eventually"])
def test_searches_take_every_consistency(index, encoder, consistency):
    query = encoder.encode_queries(["fox"])
    found = index._store.documents.search("dense", query.dense[0], 5, Plan(), "FLAT", consistency=consistency)
    assert found == index.candidates(query, 5)["dense"]
