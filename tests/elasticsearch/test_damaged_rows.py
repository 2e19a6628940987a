"""What somebody else has stored where our rows belong is an error that names the document, never a wrong score."""

import numpy as np
import pybase64
import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever
from m3plugins_elasticsearch import ElasticsearchIndexError
from m3plugins_elasticsearch.rows import our_fields, own_fields

pytestmark = pytest.mark.elasticsearch9

TEXT = "the quick brown fox"


def packed(*columns):
    return pybase64.b64encode(b"".join(np.array(values, kind).tobytes() for kind, values in columns)).decode()


def halves(*values):
    return packed(("<f2", [values[n % len(values)] for n in range(32)]))


EMBEDDINGS = {
    "no dense": ({"dense": None}, "it has no dense"),
    "no token vectors": ({"token_vectors": None}, "it has no token_vectors"),
    "no token count": ({"token_count": None}, "it has no token_count"),
    "half a token": ({"token_vectors": packed(("u1", [1] * 63))}, "take 64 bytes each, got 63 bytes"),
    "another codec": ({"token_vectors": packed(("u1", [1] * 8))}, "take 64 bytes each, got 8 bytes"),
    "NaN": ({"token_vectors": halves(np.nan)}, "must be finite"),
    "infinity": ({"token_vectors": halves(1, -np.inf)}, "must be finite"),
    "two values": ({"token_vectors": [halves(0.1), halves(0.2)]}, "token_vectors must have one value, got 2"),
}
SPARSE = {
    "half a weight": (packed(("u1", [1] * 7)), "take 8 bytes a token, got 7"),
    "weight NaN": (packed(("<i4", [5]), ("<f4", [np.nan])), "finite weights above 0"),
    "negative weight": (packed(("<i4", [5]), ("<f4", [-1.0])), "finite weights above 0"),
    "negative token": (packed(("<i4", [-5]), ("<f4", [1.0])), "distinct token ids"),
    "token twice": (packed(("<i4", [5, 5]), ("<f4", [1.0, 2.0])), "distinct token ids"),
    "token beyond": (packed(("<i4", [2**30]), ("<f4", [1.0])), "token ids below"),
}
DOCUMENTS = {
    "text that is none": ({"text": [TEXT, TEXT]}, "text, title and parent_id must be strings"),
    "no title": ({"title": None}, "text, title and parent_id must be strings"),
    "no metadata": ({"metadata": None}, "metadata must be an object"),
}
COPY = "copied by hand"
ALL = {
    **EMBEDDINGS,
    **{name: ({"sparse_weights": value}, reason) for name, (value, reason) in SPARSE.items()},
    **DOCUMENTS,
    COPY: ({"id": "sound"}, "its field id must be its own id"),
    "no id": ({"id": None}, "its field id must be its own id"),
}


@pytest.fixture(scope="module")
def query(encoder):
    return encoder.encode_queries([TEXT])


@pytest.fixture(scope="module")
def index(make, encoder, es_url):
    """A sound document, and one of each kind of damage, whose id tells it."""
    index = make(codec="float16")
    output = encoder.encode_documents([TEXT])
    with Elasticsearch(es_url) as client:
        for name, (damage, _) in {"sound": ({}, ""), **ALL}.items():
            document = Document(id=name, text=TEXT)
            row = {**our_fields(document, document.digest(), output, "float16"), **own_fields(document)}
            row = {**row, "dense": row["dense"].tolist(), "metadata": {}, **damage}
            kept = {field: value for field, value in row.items() if value is not None}
            client.index(index=index.name, id=name, document=kept)
        client.indices.refresh(index=index.name)
    return index


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for name, (_, reason) in ALL.items()], ids=list(ALL))
def test_a_read_of_a_damaged_row_names_the_document_and_the_damage(index, query, name, reason):
    named = rf"1 documents cannot be read: '{name}': .*{reason}.*; delete it and index it again"
    if name in DOCUMENTS:
        with pytest.raises(ElasticsearchIndexError, match=named):
            index.get([name])
        return
    with pytest.raises(ElasticsearchIndexError, match=named):
        index.embeddings([name])
    if name not in SPARSE:  # scores go by the index of the sparse head
        with pytest.raises(ElasticsearchIndexError, match=named):
            index.score(query, ["sound", name])


def test_a_sound_row_is_read_beside_them(index, query):
    scores = index.score(query, ["sound"])["sound"]
    assert scores.dense == pytest.approx(1, abs=1e-3) and scores.multi_vector == pytest.approx(1, abs=1e-2)
    assert index.get(["sound"])[0].text == TEXT


@pytest.mark.parametrize(
    "read",
    [
        lambda index: list(index.scan()),
        lambda index: list(index.scan(with_embeddings=True)),
        lambda index: HybridRetriever(index).search(TEXT, 5),
    ],
    ids=["scan", "scan with embeddings", "search"],
)
def test_reads_of_all_of_them_name_one(index, read):
    with pytest.raises(ElasticsearchIndexError, match=r"documents cannot be read: '.+': "):
        read(index)


def test_a_row_without_digests_is_stored_anew_by_an_upsert(make, es_url):
    index = make()
    with Elasticsearch(es_url) as client:
        client.index(index=index.name, id="a", document={"text": TEXT}, refresh=True)
    report = index.upsert([Document(id="a", text=TEXT)])
    assert (report.written, report.unchanged, report.failed) == (1, 0, [])
    assert [hit.id for hit in HybridRetriever(index).search(TEXT)] == ["a"]
