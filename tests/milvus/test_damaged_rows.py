"""What somebody else has stored where our rows belong is an error that names the document, never a wrong score."""

import numpy as np
import pybase64
import pytest

from m3plugins import Document
from m3plugins_milvus import MilvusIndexError
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
    store = index.writer
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
