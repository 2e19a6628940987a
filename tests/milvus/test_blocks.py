import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import Document
from m3plugins.scoring import head_scores
from m3plugins_milvus import blocks as blocks_module
from m3plugins_milvus.blocks import BLOCK_BYTES, BlockKeys, block_count, block_rows, join_vectors, split_text
from m3plugins_milvus.collection import Collection
from m3plugins_milvus.schema import MAX_VARCHAR
from tests.tiny import random_documents


@given(st.text(), st.integers(4, 20))
def test_split_texts_join_to_the_same_and_fit(text, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "MAX_VARCHAR", limit)
        pieces = split_text(text)
    assert "".join(pieces) == text
    assert pieces and all(len(piece.encode()) <= limit for piece in pieces)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_vectors_come_back_from_blocks_that_fit(size):
    vectors = bytes(range(256)) * (size // 256) + bytes(size % 256)
    keys = BlockKeys.of({"key": "k", "revision": "r", "vector_blocks": block_count(vectors), "text_blocks": 0})
    data = [row["data"] for row in block_rows(keys, vectors, [])]
    assert join_vectors(data) == vectors
    assert all(len(piece) <= MAX_VARCHAR for piece in data)


def stored_blocks(index) -> set[str]:
    return {key for page in index._store.blocks.keys() for key in page if ":" in key}


@pytest.mark.parametrize("character", ["a", "é", "狐", "🦊"])
def test_text_of_any_length_is_whole(empty, embedding, character):
    size = len(character.encode())
    lengths = [MAX_VARCHAR // size - 1, MAX_VARCHAR // size, MAX_VARCHAR // size + 1, 3 * MAX_VARCHAR // size + 5]
    documents = [Document(id=str(n), text=character * n) for n in lengths]
    assert empty.upsert(documents, embeddings=[embedding] * len(documents)).failed == []
    assert empty.get([d.id for d in documents]) == documents
    assert {d.text for d, _ in empty.scan(with_embeddings=True)} == {d.text for d in documents}


def test_a_text_of_many_tokens_is_truncated_for_the_model_and_kept_whole(create, encoder):
    document, index = Document(id="long", text="fox dog river " * 5000), create(codec="int8")
    report = index.upsert([document])
    assert (report.written, report.truncated) == (1, 1)
    assert index.get(["long"]) == [document]
    query = encoder.encode_queries(["fox dog"])
    exact = encoder.encode_documents([document.text])
    got, expected = index.score(query, ["long"])["long"], head_scores(query, exact)[0]
    assert got.dense == pytest.approx(expected.dense, abs=1e-6)
    assert got.multi_vector == pytest.approx(expected.multi_vector, abs=5e-3)
    assert len(stored_blocks(index)) > 5


def test_replaced_and_deleted_documents_leave_no_block(empty, embedding):
    for length in (10, 200_000, 70_000, 10):
        empty.upsert([Document(id="a", text="x" * length)], embeddings=embedding)
        assert empty.get(["a"])[0].text == "x" * length
        assert len(stored_blocks(empty)) == 1 + -(-length // MAX_VARCHAR) - 1
    empty.delete(["a"])
    assert stored_blocks(empty) == set()


class Crash(Exception):
    pass


def test_a_crash_before_the_commit_leaves_the_old_document(empty, encoder):
    empty.upsert(random_documents(3))
    old = empty.get(["doc-1"])
    query = encoder.encode_queries(["fox"])
    scores = empty.score(query, ["doc-1"])
    documents, written = empty._store.documents, []
    with pytest.MonkeyPatch.context() as patch:
        upsert = Collection.upsert

        def crash_at_the_row(self, rows):
            if self is documents:
                raise Crash
            written.extend(rows)
            upsert(self, written)

        patch.setattr(Collection, "upsert", crash_at_the_row)
        with pytest.raises(Crash):
            empty.upsert([Document(id="doc-1", text="new text")])
    assert len(written) == 1
    assert empty.get(["doc-1"]) == old
    assert empty.score(query, ["doc-1"]) == scores
    assert len(stored_blocks(empty)) == 4
    assert empty.sweep() == 1
    assert len(stored_blocks(empty)) == 3
    assert empty.score(query, ["doc-1"]) == scores


def test_a_crash_after_the_commit_leaves_the_new_document(empty, encoder):
    empty.upsert(random_documents(3))
    with pytest.MonkeyPatch.context() as patch:
        delete = Collection.delete

        def crash_at_the_blocks(self, keys):
            if self is empty._store.blocks:
                raise Crash
            delete(self, keys)

        patch.setattr(Collection, "delete", crash_at_the_blocks)
        with pytest.raises(Crash):
            empty.upsert([Document(id="doc-1", text="new text")])
        with pytest.raises(Crash):
            empty.delete(["doc-2"])
    assert [d.text for d in empty.get(["doc-1", "doc-2"])] == ["new text"]
    assert list(empty.score(encoder.encode_queries(["fox"]), ["doc-1", "doc-2"])) == ["doc-1"]
    assert empty.sweep() == 2
    assert empty.sweep() == 0


def test_a_document_replaced_while_it_is_read_is_read_again(empty, encoder):
    """The blocks of a row that was just read are gone: its new row names the new ones."""
    empty.upsert(random_documents(3))
    query = encoder.encode_queries(["fox"])
    store, documents = empty._store, empty._store.documents
    fields = ("id", "dense", "revision", "vector_blocks", "text_blocks")
    rows = documents.fetch([key for page in documents.keys() for key in page], fields)
    empty.upsert([Document(id="doc-0", text="replaced meanwhile")])
    empty.delete(["doc-1"])
    done = {complete.row["id"]: complete for complete in store.complete(rows, fields, vectors=True)}
    assert set(done) == {"doc-0", "doc-2"}
    assert done["doc-0"].row["revision"] == next(
        row["revision"] for row in documents.fetch(list(rows), fields).values() if row["id"] == "doc-0"
    )
    assert set(empty.score(query, ["doc-0", "doc-1", "doc-2"])) == {"doc-0", "doc-2"}


def test_readers_see_whole_documents_while_one_is_written(empty, encoder, embedding):
    versions = ["x" * 10, "y" * 150_000, "z" * 70_000]
    empty.upsert([Document(id="a", text=versions[0])], embeddings=embedding)
    seen, failures, stop = set(), [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                seen.update(document.text for document in empty.get(["a"]))
            except Exception as err:
                failures.append(err)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(12):
        empty.upsert([Document(id="a", text=versions[turn % 3])], embeddings=embedding)
    stop.set()
    reader.join()
    assert not failures
    assert seen <= set(versions)
