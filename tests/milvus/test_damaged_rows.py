"""What others stored where our rows belong is an error that names the document, never a wrong score, and heals."""

import ast
import re

import numpy as np
import pybase64
import pytest

from m3plugins import Document
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.errors import BrokenDocumentsError
from m3plugins.retrieval import filters
from m3plugins_milvus import MilvusIndexError, rows
from m3plugins_milvus.rows import key_of

TEXT = "the quick brown fox"


def encoded(*values):
    return pybase64.b64encode(np.array(values, "<f2").tobytes()).decode()


BLOCKS = {
    "no base64": "€",
    "cut short": encoded(*[0.1] * 31),
    "another codec": encoded(1.0, 2.0),
    "NaN": encoded(*[np.nan] * 32),
    "empty": "",
}
ROWS = {
    "negative blocks": {"vector_blocks": -1},
    "no blocks": {"vector_blocks": 0},
    "negative text": {"text_blocks": -3},
    "more blocks": {"vector_blocks": 9},
    "metadata are a list": {"metadata": [1]},
    "another's id": {"id": "sound"},
}


@pytest.fixture(scope="module")
def index(make, encoder):
    index = make(codec="float16")
    names = ["sound", *BLOCKS, *ROWS]
    index.upsert([Document(id=name, text=TEXT, metadata={"lang": "en"}) for name in names]).raise_for_failed()
    store = index._store
    fields = ["*"]
    rows = store.documents.fetch([key_of(name) for name in names], fields)
    for name, damage in ROWS.items():
        row = rows[key_of(name)]
        store.documents.upsert([{**row, **damage}])
    for name, data in BLOCKS.items():
        row = rows[key_of(name)]
        key = f"{row['key']}:{row['revision']}:0"
        (block,) = store.blocks.fetch([key], ["*"]).values()
        store.blocks.upsert([{**block, "data": data}])
    return index


@pytest.mark.parametrize("name", [*BLOCKS, *ROWS])
def test_a_read_of_a_damaged_row_names_the_document(index, encoder, name):
    shown = "sound" if name == "another's id" else name
    query = encoder.encode_queries([TEXT])
    reads = [lambda: index.embeddings([name]), lambda: index.score(query, ["sound", name])]
    if name.startswith(("metadata", "negative text")):
        reads = [lambda: index.get([name])]
    for read in reads:
        with pytest.raises(MilvusIndexError, match=f"documents cannot be read: .*{shown}"):
            read()


def test_a_sound_row_is_read_beside_them(index, encoder):
    scores = index.score(encoder.encode_queries([TEXT]), ["sound"])["sound"]
    assert scores.multi_vector == pytest.approx(1, abs=1e-2)


def store_row(index, name, **damage):
    """Writes the row of a document as somebody else might."""
    store = index._store
    (row,) = store.documents.fetch([key_of(name)], ["*"]).values()
    store.documents.upsert([{**row, **damage}])
    return row


def lose_block(index, id):
    row = store_row(index, id)
    index._store.blocks.delete([f"{row['key']}:{row['revision']}:0"])


def blocks_of(index, id):
    return [key for page in index._store.blocks.keys(prefix=f"{key_of(id)}:") for key in page]


DAMAGED = {
    **ROWS,
    "very many blocks": {"vector_blocks": 2**31 - 1},
    "very many pieces of text": {"text_blocks": 40_000},
    "no id": {"id": ""},
    "another parent's key": {"parent_key": "0" * 32},
    "another revision": {"revision": '"]'},
}


@pytest.fixture(scope="module")
def healing(make):
    return make(codec="float16")


@pytest.mark.parametrize("name", [*DAMAGED, "lost block"])
def test_an_upsert_writes_a_damaged_row_again_and_leaves_nothing_behind(healing, name):
    documents = [Document(id=i, text=TEXT, metadata={"lang": "en"}) for i in ("sound", "victim")]
    healing.upsert(documents).raise_for_failed()
    blocks = blocks_of(healing, "victim")
    if name == "lost block":
        lose_block(healing, "victim")
    else:
        store_row(healing, "victim", **DAMAGED[name])
    assert healing.upsert(documents).written == 1
    assert healing.get(["sound", "victim"]) == documents
    assert len(healing.embeddings(["sound", "victim"])) == len(list(healing.scan())) == 2
    assert blocks_of(healing, "victim") == blocks
    assert healing.upsert(documents).unchanged == 2


def test_new_metadata_are_not_given_to_a_damaged_row_and_are_to_the_others(healing):
    documents = [Document(id=i, text=TEXT) for i in ("sound", "victim")]
    healing.upsert(documents)
    store_row(healing, "victim", metadata=[1])
    report = healing.update_metadata({i: {"year": 1} for i in ("sound", "victim")})
    assert [failed.id for failed in report.failed] == ["victim"] and report.written == 1


@pytest.mark.parametrize("key", ["", "f" * 32, "\x10\x9b\u202e", 'a"] or key != "', "%", "\\", "a\nb"])
def test_a_row_under_another_key_is_named_and_goes_as_its_error_says(healing, key):
    documents = [Document(id=i, text=TEXT) for i in ("sound", "victim")]
    healing.upsert(documents)
    store_row(healing, "victim", key=key, vector_blocks=0)
    with pytest.raises(BrokenDocumentsError) as error:
        list(healing.scan())
    ((name, reason),) = error.value.failed
    advice = re.search(r"delete\(filter=(.*)\) and index", reason)
    assert name == "victim" and advice
    assert healing.delete(filter=ast.literal_eval(advice[1])) == 1
    assert sorted(healing.scan(), key=lambda document: document.id) == documents
    assert len(healing.embeddings(["sound", "victim"])) == 2


def test_a_damaged_id_is_cut_in_the_message_and_whole_in_the_report(healing):
    healing.upsert([Document(id="victim", text=TEXT)])
    store_row(healing, "victim", id="[" * 3000)
    with pytest.raises(BrokenDocumentsError) as error:
        healing.get(["victim"])
    assert len(str(error.value)) < 500 and error.value.failed[0].id == "[" * 3000


def test_a_damaged_block_heals_once_its_document_is_deleted_and_indexed_again(healing):
    document = Document(id="victim", text=TEXT)
    healing.upsert([document])
    (key,) = blocks_of(healing, "victim")
    (block,) = healing._store.blocks.fetch([key], ["*"]).values()
    healing._store.blocks.upsert([{**block, "data": "€"}])
    with pytest.raises(BrokenDocumentsError, match="'victim': .*; delete it and index it again"):
        healing.embeddings(["victim"])
    assert healing.delete(["victim"]) == healing.upsert([document]).written == 1
    assert list(healing.embeddings(["victim"])) == ["victim"]


@pytest.fixture(scope="module")
def cut(make):
    return make(codec="float16", passages=Passages(size=4, overlap=0))


PASSAGES = {
    "another's id": {"id": "stranger"},
    "another's parent": {"parent_id": "stranger"},
    "another parent's key": {"parent_key": key_of("stranger")},
    "no parent": {"parent_id": None},
    "no blocks": {"vector_blocks": 0},
}


@pytest.mark.parametrize("name", [*PASSAGES, "lost block"])
def test_a_document_with_a_damaged_passage_is_written_again_and_deleted(cut, name):
    document, other = Document(id="whole", text=f"{TEXT} jumps over the lazy dog"), Document(id="other", text=TEXT)
    cut.upsert([document, other]).raise_for_failed()
    passages = sorted(cut.scan(), key=lambda passage: passage.id)
    for repair in (lambda: cut.upsert([document, other]), lambda: (cut.delete(["whole"]), cut.upsert([document]))):
        if name == "lost block":
            lose_block(cut, "whole#1")
        else:
            store_row(cut, "whole#1", **PASSAGES[name])
        repair()
        assert sorted(cut.scan(), key=lambda passage: passage.id) == passages
        assert len(cut.embeddings([passage.id for passage in passages])) == len(passages) > 2


@pytest.mark.parametrize("name", ["no blocks", "negative text", "very many blocks"])
def test_a_sweep_leaves_the_blocks_of_a_damaged_row(healing, name):
    document = Document(id="victim", text=TEXT)
    healing.upsert([document])
    blocks = blocks_of(healing, "victim")
    store_row(healing, "victim", **DAMAGED[name])
    healing.sweep()
    assert blocks_of(healing, "victim") == blocks
    assert healing.upsert([document]).written == 1


def test_metadata_that_are_no_object_are_counted_as_none_by_a_filter(healing):
    healing.delete(filter=filters.and_())
    healing.upsert([Document(id=i, text=TEXT, metadata={"lang": "en"}) for i in ("sound", "victim")])
    store_row(healing, "victim", metadata=[1])
    assert healing.count(filters.not_(filters.contains("lang", "en"))) == 1
    assert healing.delete(filter=filters.not_(filters.contains("lang", "en"))) == 1


def test_a_text_has_to_fit_the_blocks(healing, monkeypatch):
    monkeypatch.setattr(rows, "MAX_TEXT", 3)
    (failed,) = healing.upsert([Document(id="long", text="four")]).failed
    assert "text must be at most 3 characters" in failed.reason
