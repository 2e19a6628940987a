"""What goes in comes out to the letter, once, and only what changed is written."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from elasticsearch import Elasticsearch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins import Document, HybridRetriever, M3Output
from m3plugins.compression import CODECS, get_codec
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.retrieval import HybridIndex, filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, reading
from m3plugins_elasticsearch.rows import rounded
from tests.elasticsearch.conftest import Create
from tests.milvus.conftest import random_documents
from tests.tiny import SENTENCES


def by_id(documents):
    return sorted(documents, key=lambda document: document.id)


def letters(document: Document) -> str:
    """All of a document, where 1, 1.0 and true are three values."""
    fields = [document.id, document.text, document.title, document.parent_id, dict(document.metadata)]
    return json.dumps(fields, sort_keys=True)


def assert_to_the_letter(index, documents):
    expected = {document.id: letters(document) for document in documents}
    assert {document.id: letters(document) for document in index.get(list(expected))} == expected
    assert {document.id: letters(document) for document in index.scan() if document.id in expected} == expected


# Documents come back


def test_is_a_hybrid_index(index):
    assert isinstance(index, HybridIndex)


def test_documents_come_back_as_they_went_in(index, documents):
    assert by_id(index.scan()) == by_id(documents)
    assert index.count() == len(documents)


def test_get_keeps_the_order_and_leaves_out_the_unknown(index, documents):
    assert index.get(["doc-7", "nope", "doc-3", "doc-7"]) == [documents[7], documents[3]]
    assert index.get([]) == []


def test_get_takes_no_single_string(index):
    with pytest.raises(TypeError, match="list of strings"):
        index.get("doc-7")


unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["id", "facets", "dense", "sparse", "revision", "metadata.id", "a.b", "a", "a..b", ".", "_id", "title"]
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | unicode
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
any_documents = st.lists(
    st.builds(
        Document,
        id=unicode.filter(bool),
        text=unicode,
        title=unicode,
        parent_id=st.none() | unicode,
        metadata=st.dictionaries(keys, values, max_size=6),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda document: document.id,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_documents)
def test_any_document_comes_back_to_the_letter(scratch, embedding, documents):
    report = scratch.upsert(documents, embeddings=[embedding] * len(documents))
    assert report.failed == []
    assert_to_the_letter(scratch, documents)
    assert scratch.upsert(documents, embeddings=[embedding] * len(documents)).unchanged == len(documents)
    assert scratch.delete([document.id for document in documents]) == len(documents)


def nested(levels: int, wrap) -> object:
    value: object = "in the depth"
    for _ in range(levels):
        value = wrap(value)
    return value


METADATA = {
    "none": {},
    "floats": {"a": 1e22, "b": -0.0, "c": 0.1, "d": 5e-324, "e": 1.7976931348623157e308, "f": 1.0, "g": 0.1 + 0.2},
    "integers": {"a": 2**63 - 1, "b": -(2**63), "c": 2**64 - 1, "d": 0, "e": [2**53 + 1, 2**64 - 1, 1.5]},
    "empty values": {"a": {}, "b": [], "c": [{}], "d": [[]], "e": [None], "f": None, "g": {"h": {}}, "i": ""},
    "our own names": {
        **{name: "theirs" for name in ("id", "revision", "attributes", "token_count", "facets", "_id", "_source")},
        **{name: [1] for name in ("dense", "sparse", "sparse_weights", "token_vectors", "metadata", "title", "text")},
    },
    "dots in names": {"a.b": 1, "a": {"b": 2, "c": 3}, "a.c": {"d": 1}, ".": 1, "..": 2, "b.": 5, "": 6, "id.x": 1},
    "64 objects deep": {"d": nested(63, lambda value: {"d": value})},
    "64 lists deep": {"d": nested(63, lambda value: [value])},
    "mixed types": {"a": [1, "x", None, True, 1.5, {"b": [1, {"c": 2}]}, [1, [2]]]},
    "odd strings": {
        "a": "\x00",
        "b": "\u2028",
        "c": "狐🦊",
        "d": "\ufeff",
        "e": "\\u0000",
        "f": "\x7f\x1b",
        "g": "\uffff",
    },
    "40,000 characters": {"a": "x" * 40_000, "b": "🦊" * 40_000, "c": ["狐" * 40_000]},
    "odd names": {"狐🦊": 1, "\u2028": 2, "*": 3, "a*": 4, "a,b": 5, '"': 6, "\\": 7, "\x01": 8, " ": 9},
    "names of 4,000 characters": {"k" * 4000: "v" * 40_000, "🦊" * 4000: {"🦊" * 4000: {"🦊" * 4000: "🦊" * 4000}}},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_come_back_to_the_letter(empty, metadata, embedding):
    document = Document(id="a", text="fox", metadata=metadata)
    assert empty.upsert([document], embeddings=embedding).failed == []
    assert_to_the_letter(empty, [document])


IDS = [
    "x" * 512,
    "é" * 256,
    "狐🦊",
    "zz'] or id in ['a','b",
    'zz"}},"match_all":{}',
    *("\x00", "a\nb", '"', "\\", "%", "\u2028", "\ufeff", "\x7f"),
    *(" ", "*", "a,b", "_all", "_id", "..", "/", "?", "a/b", "null", "0"),
]


@pytest.mark.parametrize("value", IDS, ids=ascii)
def test_ids_are_only_ever_themselves(empty, encoder, value):
    others = [Document(id="a", text="fox"), Document(id="b", text="dog")]
    odd = Document(
        id=value, text=value, title=value, metadata={"field": value, "f" + value.strip("\0"): 1}, parent_id=value
    )
    assert empty.upsert([*others, odd]).failed == []
    assert_to_the_letter(empty, [odd])
    assert list(empty.score(encoder.encode_queries(["odd"]), [value])) == [value] == list(empty.embeddings([value]))
    assert value in {hit.id for hit in empty.candidates(encoder.encode_queries(["odd"]), 5)["dense"]}
    assert [d.id for d in empty.scan(filters.eq("field", value))] == [value]
    assert empty.count({"term": {"parent_id": value}}) == 1
    assert empty.delete(parent_id=value) == 1
    assert empty.delete([value]) == 0
    assert by_id(empty.scan()) == others


TEXTS = ["", " \n\t ", "\x00", "x" * 40_000, "🦊" * 40_000, (SENTENCES[0] + " ") * 1600, SENTENCES[9] * 2000]


@pytest.fixture(scope="module", params=[None, "standard", {"type": "custom", "tokenizer": "standard"}], ids=str)
def any_kind(make: Create, request) -> ElasticsearchHybridIndex:
    """Without full-text search, and with it."""
    return make(bm25=request.param)


def test_texts_come_back_to_the_letter(any_kind, embedding):
    documents = [Document(id=str(number), text=text, title=text) for number, text in enumerate(TEXTS)]
    assert any_kind.upsert(documents, embeddings=[embedding] * len(TEXTS)).failed == []
    assert_to_the_letter(any_kind, documents)


def test_callers_documents_are_left_alone(empty):
    metadata = {"tags": ["a"], "nested": {"b": 1}}
    document = Document(id="a", text="fox", metadata=metadata)
    empty.upsert([document])
    assert metadata == {"tags": ["a"], "nested": {"b": 1}}


# Writing


def test_a_second_upsert_writes_nothing(index, documents):
    report = index.upsert(documents)
    assert (report.written, report.unchanged, report.failed) == (0, 100, [])


def test_any_change_is_written(empty):
    document = Document(id="a", text="fox", metadata={"n": 1})
    empty.upsert([document])
    changed = [
        replace(document, text="dog"),
        replace(document, metadata={"n": 1.5}),
        replace(document, metadata={"n": True}),
        replace(document, title="t"),
        replace(document, parent_id="p"),
        replace(document, parent_id=""),
    ]
    for other in changed:
        assert empty.upsert([other]).written == 1
        assert_to_the_letter(empty, [other])
        assert empty.count() == 1


def test_a_replaced_document_keeps_nothing_of_the_old_one(empty, encoder):
    """A partial update of a sparse vector would keep the old tokens."""
    old = Document(id="a", text="a lazy dog", metadata={"year": 2020}, parent_id="p", title="t")
    new = Document(id="a", text="fox")
    empty.upsert([old])
    empty.upsert([new])
    assert empty.get(["a"]) == [new]
    for wanted in (filters.gt("year", 0), filters.exists("year"), {"term": {"parent_id": "p"}}):
        assert empty.count(wanted) == 0
    expected = encoder.encode_documents([new.content]).sparse[0].to_dict()
    assert empty.embeddings(["a"])["a"].sparse[0].to_dict() == pytest.approx(expected, rel=2e-3)
    left = encoder.encode_queries([old.content]).sparse[0].to_dict().keys() - expected.keys()
    assert left
    only_old = SparseEmbeddings.from_dicts([dict.fromkeys(left, 1.0)], vocab_size=encoder.vocab_size)
    query = replace(encoder.encode_queries([old.content], heads=["sparse"]), sparse=only_old)
    assert empty.candidates(query, 5)["sparse"] == []


def test_generators_are_streamed(empty, embedding):
    taken = []
    acknowledged = []

    def stream():
        for document in random_documents(600):
            taken.append(document.id)
            yield document

    def on_ack(ids):
        acknowledged.append((len(taken), len(ids)))

    assert empty.upsert(stream(), embeddings=(embedding for _ in range(600)), on_ack=on_ack).written == 600
    assert acknowledged[0][0] < 600  # the first were stored before the last were read
    assert sum(count for _, count in acknowledged) == 600


def test_of_two_documents_of_one_id_the_later_wins(empty):
    empty.upsert([Document(id="a", text="first"), Document(id="b", text="b"), Document(id="a", text="second")])
    assert {d.id: d.text for d in empty.scan()} == {"a": "second", "b": "b"}


def test_threads_that_write_at_once_lose_nothing(empty):
    batches = [[Document(id=f"{i}-{j}", text=f"{SENTENCES[j]} {i}") for j in range(5)] for i in range(24)]
    with ThreadPoolExecutor(8) as threads:
        reports = list(threads.map(empty.upsert, batches))
    assert [report.written for report in reports] == [5] * 24
    assert by_id(empty.scan()) == by_id(document for batch in batches for document in batch)


# Embeddings


def test_embeddings_of_the_callers_are_stored(empty, encoder):
    documents = random_documents(10)
    output = encoder.encode_documents([document.content for document in documents])
    assert empty.upsert(documents, embeddings=[output[:3], output[3:]]).written == 10
    for document, stored in empty.scan(with_embeddings=True):
        row = documents.index(document)
        np.testing.assert_array_equal(stored.dense, output[row].dense)
        weights = output.sparse[row]
        assert stored.sparse[0].to_dict() == dict(
            zip(weights.indices.tolist(), rounded(weights.values).tolist(), strict=True)
        )
        np.testing.assert_allclose(stored.multi_vector[0], output.multi_vector[row], atol=0.005)
        assert stored.token_counts.tolist() == output[row].token_counts.tolist()
        assert stored.truncated.tolist() == output[row].truncated.tolist()
    assert empty.upsert(documents, embeddings=output).unchanged == 10


@pytest.mark.parametrize("codec", CODECS)
def test_token_vectors_are_what_the_codec_makes_of_them(make: Create, encoder, codec):
    index = make(codec=codec)
    documents = random_documents(8)
    output = encoder.encode_documents([document.content for document in documents])
    index.upsert(documents, embeddings=output)
    found = index.embeddings([document.id for document in documents])
    for row, document in enumerate(documents):
        vectors = output.multi_vector[row]
        kept = get_codec(codec).decode(get_codec(codec).encode(vectors), vectors.shape[1])
        np.testing.assert_array_equal(found[document.id].multi_vector[0], kept)


def test_more_documents_than_embeddings_are_an_error(empty, embedding):
    with pytest.raises(ValueError, match="embeddings ran out"):
        empty.upsert(random_documents(2), embeddings=embedding)


def test_a_text_without_tokens_is_found_by_its_dense_vector_only(empty, embedding, encoder):
    bare = M3Output(
        dense=embedding.dense,
        sparse=SparseEmbeddings.from_dicts([{}], vocab_size=encoder.vocab_size),
        multi_vector=embedding.multi_vector,
        token_counts=embedding.token_counts,
        truncated=embedding.truncated,
    )
    empty.upsert([Document(id="a", text="")], embeddings=bare)
    query = encoder.encode_queries(["The quick brown fox"])
    found = empty.candidates(query, 3)
    assert ([hit.id for hit in found["dense"]], found["sparse"]) == (["a"], [])
    assert empty.score(query, ["a"])["a"].sparse == 0.0
    ((_, stored),) = empty.scan(with_embeddings=True)
    assert stored.sparse[0].to_dict() == {}
    assert empty.update_metadata({"a": {"n": 1}}).written == 1
    assert empty.embeddings(["a"])["a"].sparse[0].to_dict() == {}


def test_multi_vectors_alone_can_be_scored(index, encoder):
    query = encoder.encode_queries(["fox"], heads=["multi_vector"])
    assert isinstance(query.multi_vector, MultiVectorEmbeddings)
    scores = index.score(query, ["doc-1"])["doc-1"]
    assert scores.dense is None and scores.sparse is None and scores.multi_vector is not None


def test_score_leaves_out_the_unknown(index, encoder):
    query = encoder.encode_queries(["fox"])
    assert list(index.score(query, ["doc-5", "nope", "doc-2"])) == ["doc-5", "doc-2"]
    assert index.score(query, []) == {}
    assert index.score(query, ["nope"]) == {}


def test_score_takes_one_query(index, encoder):
    with pytest.raises(ValueError, match="one text"):
        index.score(encoder.encode_queries(["a", "b"]), ["doc-1"])


def test_an_empty_index_answers(empty, encoder):
    assert empty.candidates(encoder.encode_queries(["fox"]), 5) == {"dense": [], "sparse": []}
    assert (empty.count(), empty.get(["a"]), list(empty.scan()), empty.delete(["a"])) == (0, [], [], 0)
    assert list(empty.scan(with_embeddings=True)) == [] == HybridRetriever(empty).search("fox")


# Deleting


def test_delete_by_ids_counts_what_was_there(empty):
    empty.upsert(random_documents(5))
    assert empty.delete(["doc-0", "doc-0", "nope", "doc-1"]) == 2
    assert empty.count() == 3
    assert empty.delete([]) == 0


def test_delete_by_filter(empty):
    documents = random_documents(30)
    empty.upsert(documents)
    assert empty.delete(filter=filters.lt("number", 10)) == 10
    assert empty.delete(filter=filters.eq("even", True)) == 10
    assert empty.delete(filter={"term": {"metadata.number": "11"}}) == 1
    assert {d.metadata["number"] for d in empty.scan()} == set(range(13, 30, 2))


@pytest.mark.parametrize("arguments", [{}, {"ids": ["a"], "filter": filters.eq("a", 1)}])
def test_delete_takes_ids_or_a_filter(empty, arguments):
    with pytest.raises(ValueError, match="exactly one of ids, filter, parent_id"):
        empty.delete(**arguments)


@pytest.mark.parametrize("parent", ["p", 'p"] or key != "', "\x00", "狐🦊", "x" * 512, ""])
def test_delete_by_parent(empty, parent):
    children = [Document(id=f"c{n}", text=f"text {n}", parent_id=parent) for n in range(5)]
    itself = Document(id=parent or "none", text="the parent itself")
    empty.upsert([*children, itself, Document(id="o", text="x", parent_id="q")])
    assert empty.delete(parent_id=parent) == 5
    assert {d.id for d in empty.scan()} == {itself.id, "o"}
    assert empty.delete(parent_id=parent) == 0


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
    page = reading.EMBEDDINGS_PER_READ
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


def test_a_scan_that_writes_to_what_it_reads_ends(empty):
    empty.upsert(random_documents(7))
    for document in empty.scan():
        empty.upsert([replace(document, metadata={"seen": True})])
    assert empty.count(filters.eq("seen", True)) == 7


# Clients and connections


def test_reopened_it_is_the_same(make: Create, encoder, es_url):
    documents = random_documents(10)
    first = make()
    first.upsert(documents)
    first.close()
    with ElasticsearchHybridIndex.open(first.name, encoder=encoder, uri=es_url) as index:
        assert by_id(index.scan()) == by_id(documents)
        assert index.upsert(documents).unchanged == 10
        assert len(index.candidates(encoder.encode_queries(["fox"]), 3)["dense"]) == 3


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
