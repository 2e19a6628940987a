"""What somebody else has stored where our rows belong is an error that names the document, never a wrong score."""

import numpy as np
import pybase64
import pytest
from elasticsearch import Elasticsearch

from m3plugins import Document, HybridRetriever
from m3plugins.encoding.passages import Passages
from m3plugins.indexing.copy import copy
from m3plugins_elasticsearch import ElasticsearchIndexError
from m3plugins_elasticsearch.mapping import VECTORS
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
    "no vector": ({"token_vectors": ""}, "token_vectors must hold at least one vector"),
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


VICTIM = Document(id="victim", text=TEXT, title="Fox", metadata={"lang": "en"})
SEEN = {
    **{f"no {name}": (name, None) for name in ("id", "revision", "attributes", "title", "metadata")},
    **{f"no {name}": (name, None) for name in ("token_count", "truncated", *VECTORS)},
    "another's id": ("id", "other"),
    "two ids": ("id", ["victim", "other"]),
    "two token counts": ("token_count", [1, 2]),
    "other metadata": ("metadata", {"lang": "de"}),
    "another parent": ("parent_id", "p"),
    "attributes of others": ("attributes", "0" * 32),
}
UNSEEN = {
    "no text": ("text", None),
    "half a token": ("token_vectors", packed(("u1", [1] * 63))),
    "half a weight": ("sparse_weights", packed(("u1", [1] * 7))),
}


def damage(es_url, index, document, field, value, output):
    """Stores a document's row with another value in one field."""
    row = {**our_fields(document, document.digest(), output, "float16"), **own_fields(document)}
    row = {**row, "dense": row["dense"].tolist(), "metadata": dict(document.metadata), field: value}
    kept = {name: value for name, value in row.items() if value is not None}
    with Elasticsearch(es_url) as client:
        client.index(index=index.name, id=document.id, document=kept, refresh=True)


@pytest.fixture(scope="module")
def whole(make, encoder):
    """An index whose documents each test writes anew, and what their embeddings are."""
    return make(codec="float16"), encoder.encode_documents([VICTIM.content])


@pytest.fixture(scope="module")
def passages(make, encoder):
    """As `whole`, of passages."""
    return make(codec="float16", passages=Passages(size=64)), encoder.encode_documents([PASSAGE.content])


def is_whole(index, document=VICTIM):
    (output,) = index.embeddings([document.id]).values()
    return index.get([document.id]) == [document] and len(output.sparse.values) and output.dense.any()


@pytest.mark.parametrize(("field", "value"), SEEN.values(), ids=list(SEEN))
def test_damage_that_is_seen_heals_by_an_upsert_of_the_same_document(whole, es_url, field, value):
    index, output = whole
    damage(es_url, index, VICTIM, field, value, output)
    report = index.upsert([VICTIM])
    assert (report.written, report.failed) == (1, []) and is_whole(index)
    assert index.upsert([VICTIM]).unchanged == 1


@pytest.mark.parametrize(("field", "value"), UNSEEN.values(), ids=list(UNSEEN))
def test_damage_of_the_text_and_inside_vectors_heals_by_what_the_error_says(whole, es_url, field, value):
    index, output = whole
    damage(es_url, index, VICTIM, field, value, output)
    assert index.upsert([VICTIM]).unchanged == 1
    with pytest.raises(ElasticsearchIndexError, match="'victim': .*; delete it and index it again"):
        index.get(["victim"]), index.embeddings(["victim"])
    assert index.delete(["victim"]) == 1 and index.upsert([VICTIM]).written == 1 and is_whole(index)


def test_new_metadata_of_damaged_vectors_fail_by_name_and_the_other_documents_are_stored(whole, es_url):
    index, output = whole
    damage(es_url, index, VICTIM, *UNSEEN["half a weight"], output)
    index.upsert([Document(id="sound", text="sound")])
    changed = [Document(id="victim", text=TEXT, title="Fox"), Document(id="sound", text="sound", metadata={"n": 1})]
    report = index.upsert(changed)
    assert report.written == 1 and [failed.id for failed in report.failed] == ["victim"]
    assert report.failed[0].reason.endswith("delete it and index it again")


def test_a_document_that_somebody_updated_in_part_is_not_unchanged(whole, es_url):
    index, _ = whole
    index.upsert([VICTIM])
    with Elasticsearch(es_url) as client:  # the source, of which an update is made, does not hold the vectors
        client.update(index=index.name, id="victim", doc={"title": "Fox"}, detect_noop=False, refresh=True)
    assert index.upsert([VICTIM]).written == 1 and is_whole(index)


def test_a_text_without_tokens_and_one_that_no_search_sees_yet_are_unchanged(make):
    index = make(refresh=False)
    documents = [Document(id="empty", text=""), Document(id="unseen", text=TEXT)]
    assert index.upsert(documents).written == 2
    assert index.upsert(documents).unchanged == 2


def test_a_scan_gives_all_the_others_before_it_names_what_cannot_be_read(index):
    found = []
    with pytest.raises(ElasticsearchIndexError, match=f"{len(DOCUMENTS)} documents cannot be read"):
        found.extend(document.id for document in index.scan())
    assert set(found) == {"sound", *ALL} - DOCUMENTS.keys()


PASSAGE = Document(id="d#0", text=TEXT, title="Fox", metadata={"lang": "en"}, parent_id="d")


@pytest.mark.parametrize(("field", "value"), [*SEEN.values(), ("parent_id", ["a", "d"])], ids=[*SEEN, "two parents"])
def test_a_damaged_passage_heals_by_an_upsert_of_its_document(passages, es_url, field, value):
    index, output = passages
    damage(es_url, index, PASSAGE, field, value, output)
    report = index.upsert([Document(id="d", text=TEXT, title="Fox", metadata={"lang": "en"})])
    assert (report.written, report.failed) == (1, []) and is_whole(index, PASSAGE)


def test_damage_inside_the_vectors_of_a_passage_names_its_document(passages, es_url):
    index, output = passages
    damage(es_url, index, PASSAGE, *UNSEEN["half a token"], output)
    with pytest.raises(ElasticsearchIndexError, match="'d#0': .*; delete 'd', of which it is a passage, and index"):
        index.embeddings(["d#0"])
    assert index.delete(["d"]) == 1
    assert index.upsert([Document(id="d", text=TEXT, title="Fox", metadata={"lang": "en"})]).written == 1
    assert is_whole(index, PASSAGE)


def test_new_metadata_for_a_damaged_passage_fail_by_name(passages, es_url):
    index, output = passages
    damage(es_url, index, PASSAGE, "token_vectors", None, output)
    report = index.update_metadata({"d": {"n": 1}})
    assert [failed.id for failed in report.failed] == ["d"] and "index it" in report.failed[0].reason


def test_a_copy_names_what_is_damaged_and_copies_the_rest(make, es_url, encoder):
    source, target = make(codec="float16"), make(codec="float16")
    source.upsert([Document(id="sound", text="sound")])
    damage(es_url, source, VICTIM, "attributes", None, encoder.encode_documents([VICTIM.content]))
    report = copy(source, target)
    assert report.written == 1 and [failed.id for failed in report.failed] == ["victim"]
