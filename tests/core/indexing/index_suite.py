"""What goes into any engine comes out to the letter, once, and only what changed is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins import Document, HybridIndex, HybridRetriever, M3Encoder
from m3plugins.compression import CODECS, get_codec
from m3plugins.encoding.multi_vector import MultiVectorEmbeddings
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins.retrieval import filters
from tests.tiny import SENTENCES, random_documents

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
    "odd strings": dict(
        zip("abcdefg", ["\x00", "\u2028", "狐🦊", "\ufeff", "\\u0000", "\x7f\x1b", "\uffff"], strict=True)
    ),
    "odd names": {"狐🦊": 1, "\u2028": 2, "*": 3, "a*": 4, "a,b": 5, '"': 6, "\\": 7, "\x01": 8, " ": 9},
}

ODD_IDS = [
    "狐🦊",
    "zz'] or id in ['a','b",
    'zz"] or key != "" or key in ["',
    '") or 1 == 1 or ("" == "',
    'zz"}},"match_all":{}',
    *("'; drop", "\x00", "a\nb", '"', "\\", "%", "\u2028", "\ufeff", "\x7f"),
    *(" ", "*", "a,b", "_all", "_id", "..", "/", "?", "a/b", "null", "0"),
]


def by_id(documents: Iterable[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: document.id)


def letters(document: Document) -> str:
    """All of a document, where 1, 1.0 and true are three values."""
    fields = [document.id, document.text, document.title, document.parent_id, dict(document.metadata)]
    return json.dumps(fields, sort_keys=True)


def as_kept(codec: str, vectors: np.ndarray) -> np.ndarray:
    """Token vectors after a stay in a codec."""
    return get_codec(codec).decode(get_codec(codec).encode(vectors), vectors.shape[1])


def assert_to_the_letter(index: HybridIndex, documents: Iterable[Document]) -> None:
    expected = {document.id: letters(document) for document in documents}
    assert {document.id: letters(document) for document in index.get(list(expected))} == expected
    assert {document.id: letters(document) for document in index.scan() if document.id in expected} == expected


def assert_only_itself(index: HybridIndex, encoder: M3Encoder, odd_id: str) -> None:
    """A document of that id, parent, title, text and metadata is found by them, and no other one is."""
    others = [Document(id="a", text="fox"), Document(id="b", text="dog")]
    value, key = odd_id[:1000], odd_id[:1000].strip("\0") or "_"
    odd = Document(id=odd_id, text=value, title=value, metadata={"field": value, key: 1}, parent_id=odd_id)
    assert index.upsert([*others, odd]).failed == []
    assert_to_the_letter(index, [odd])
    query = encoder.encode_queries(["odd"])
    assert list(index.score(query, [odd_id])) == [odd_id] == list(index.embeddings([odd_id]))
    assert odd_id in {hit.id for hit in index.candidates(query, 5)["dense"]}
    for wanted in (filters.eq("field", value), filters.exists(key)):
        assert [document.id for document in index.scan(wanted)] == [odd_id]
    assert index.delete([odd_id]) == 1
    assert by_id(index.scan()) == others
    assert index.delete([odd_id]) == 0
    assert index.delete(filter=filters.eq("field", value)) == 0
    index.upsert([odd])
    assert index.delete(parent_id=odd_id) == 1
    assert by_id(index.scan()) == others


class IndexSuite:
    """Subclasses have the fixtures of an engine: `make`, and those that are made of it."""

    def weights_as_kept(self, values: np.ndarray) -> np.ndarray:
        """Token weights as the engine stores them."""
        return values

    # Documents come back

    def test_is_a_hybrid_index(self, index):
        assert isinstance(index, HybridIndex)

    def test_documents_come_back_as_they_went_in(self, index, documents):
        assert by_id(index.scan()) == by_id(documents)
        assert index.count() == len(documents)

    def test_get_keeps_the_order_and_leaves_out_the_unknown(self, index, documents):
        assert index.get(["doc-7", "nope", "doc-3", "doc-7"]) == [documents[7], documents[3]]
        assert index.get([]) == []

    def test_get_takes_no_single_string(self, index):
        with pytest.raises(TypeError, match="list of strings"):
            index.get("doc-7")

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(documents=any_documents)
    def test_any_document_comes_back_to_the_letter(self, scratch, embedding, documents):
        report = scratch.upsert(documents, embeddings=[embedding] * len(documents))
        assert report.failed == []
        assert_to_the_letter(scratch, documents)
        assert scratch.upsert(documents, embeddings=[embedding] * len(documents)).unchanged == len(documents)
        assert scratch.delete([document.id for document in documents]) == len(documents)

    @pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
    def test_metadata_come_back_to_the_letter(self, empty, metadata, embedding):
        document = Document(id="a", text="fox", metadata=metadata)
        assert empty.upsert([document], embeddings=embedding).failed == []
        assert_to_the_letter(empty, [document])

    @pytest.mark.parametrize("value", ODD_IDS, ids=ascii)
    def test_ids_are_only_ever_themselves(self, empty, encoder, value):
        assert_only_itself(empty, encoder, value)

    def test_callers_documents_are_left_alone(self, empty):
        metadata = {"tags": ["a"], "nested": {"b": 1}}
        empty.upsert([Document(id="a", text="fox", metadata=metadata)])
        assert metadata == {"tags": ["a"], "nested": {"b": 1}}

    # Writing

    def test_a_second_upsert_writes_nothing(self, index, documents):
        report = index.upsert(documents)
        assert (report.written, report.unchanged, report.failed) == (0, 100, [])

    def test_any_change_is_written(self, empty):
        document = Document(id="a", text="fox", metadata={"n": 1})
        empty.upsert([document])
        changes = [
            *({"text": "dog"}, {"title": "t"}, {"parent_id": "p"}, {"parent_id": ""}),
            *({"metadata": {"n": 1.5}}, {"metadata": {"n": 1.0}}, {"metadata": {"n": True}}),
        ]
        for change in changes:
            changed = replace(document, **change)
            assert empty.upsert([changed]).written == 1
            assert_to_the_letter(empty, [changed])
            assert empty.count() == 1

    def test_a_replaced_document_keeps_nothing_of_the_old_one(self, empty, encoder):
        """Where an engine updates a document in part, old dynamic fields or old tokens could stay."""
        old = Document(id="a", text="a lazy dog", metadata={"year": 2020}, parent_id="p", title="t")
        new = Document(id="a", text="fox")
        empty.upsert([old])
        empty.upsert([new])
        assert empty.get(["a"]) == [new]
        for wanted in (filters.gt("year", 0), filters.exists("year"), filters.eq("year", 2020)):
            assert empty.count(wanted) == 0
        expected = encoder.encode_documents([new.content]).sparse[0].to_dict()
        assert empty.embeddings(["a"])["a"].sparse[0].to_dict() == pytest.approx(expected, rel=2e-3)
        left = encoder.encode_queries([old.content]).sparse[0].to_dict().keys() - expected.keys()
        assert left
        only_old = SparseEmbeddings.from_dicts([dict.fromkeys(left, 1.0)], vocab_size=encoder.vocab_size)
        query = replace(encoder.encode_queries([old.content], heads=["sparse"]), sparse=only_old)
        assert empty.candidates(query, 5)["sparse"] == []
        assert empty.delete(parent_id="p") == 0

    @pytest.mark.parametrize("given", [True, False], ids=["with embeddings", "without"])
    def test_generators_are_streamed(self, empty, embedding, given):
        taken, acknowledged = [], []

        def stream():
            for document in random_documents(600):
                taken.append(document.id)
                yield document

        def on_ack(ids):
            acknowledged.append((len(taken), len(ids)))

        embeddings = (embedding for _ in range(600)) if given else None
        assert empty.upsert(stream(), embeddings=embeddings, on_ack=on_ack).written == 600
        assert acknowledged[0][0] < 600  # the first were stored before the last were read
        assert sum(count for _, count in acknowledged) == 600

    def test_a_callback_that_raises_ends_the_call_and_loses_nothing(self, empty):
        class Stop(Exception):
            pass

        def stop(ids):
            acknowledged.extend(ids)
            raise Stop

        documents, acknowledged = random_documents(30), []
        with pytest.raises(Stop):
            empty.upsert(documents, on_ack=stop)
        assert acknowledged and {document.id for document in empty.get(acknowledged)} == {*acknowledged}
        report = empty.upsert(documents)
        assert report.unchanged >= len(acknowledged) and report.written + report.unchanged == len(documents)
        changes, acknowledged = {document.id: {"year": 2020} for document in documents}, []
        with pytest.raises(Stop):
            empty.update_metadata(changes, on_ack=stop)
        assert acknowledged and all(document.metadata == {"year": 2020} for document in empty.get(acknowledged))
        report = empty.update_metadata(changes)
        assert report.unchanged >= len(acknowledged) and not report.failed
        assert empty.count(filters.eq("year", 2020)) == len(documents)

    def test_of_two_documents_of_one_id_the_later_wins(self, empty):
        empty.upsert([Document(id="a", text="first"), Document(id="b", text="b"), Document(id="a", text="second")])
        assert {d.id: d.text for d in empty.scan()} == {"a": "second", "b": "b"}

    # Embeddings

    def test_embeddings_of_the_callers_are_stored(self, empty, encoder):
        documents = random_documents(10)
        output = encoder.encode_documents([document.content for document in documents])
        assert empty.upsert(documents, embeddings=[output[:3], output[3:]]).written == 10
        for document, stored in empty.scan(with_embeddings=True):
            row = documents.index(document)
            np.testing.assert_array_equal(stored.dense, output[row].dense)
            weights = output.sparse[row]
            kept = replace(weights, values=self.weights_as_kept(weights.values))
            assert stored.sparse[0].to_dict() == kept.to_dict()
            vectors = as_kept(empty.identity.codec, output.multi_vector[row])
            np.testing.assert_allclose(stored.multi_vector[0], vectors, atol=1e-6)
            assert stored.token_counts.tolist() == output[row].token_counts.tolist()
            assert stored.truncated.tolist() == output[row].truncated.tolist()
        assert empty.upsert(documents, embeddings=output).unchanged == 10

    def test_more_documents_than_embeddings_are_an_error(self, empty, embedding):
        with pytest.raises(ValueError, match="embeddings ran out"):
            empty.upsert(random_documents(2), embeddings=embedding)

    def test_a_text_without_tokens_is_found_by_its_dense_vector_only(self, empty, embedding, encoder):
        bare = replace(embedding, sparse=SparseEmbeddings.from_dicts([{}], vocab_size=encoder.vocab_size))
        empty.upsert([Document(id="a", text="")], embeddings=bare)
        query = encoder.encode_queries(["The quick brown fox"])
        found = empty.candidates(query, 3)
        assert ([hit.id for hit in found["dense"]], found["sparse"]) == (["a"], [])
        assert empty.score(query, ["a"])["a"].sparse == 0.0
        ((_, stored),) = empty.scan(with_embeddings=True)
        assert stored.sparse[0].to_dict() == {}
        assert empty.update_metadata({"a": {"n": 1}}).written == 1
        assert empty.embeddings(["a"])["a"].sparse[0].to_dict() == {}

    def test_multi_vectors_alone_can_be_scored(self, index, encoder):
        query = encoder.encode_queries(["fox"], heads=["multi_vector"])
        assert isinstance(query.multi_vector, MultiVectorEmbeddings)
        scores = index.score(query, ["doc-1"])["doc-1"]
        assert scores.dense is None and scores.sparse is None and scores.multi_vector is not None

    def test_score_leaves_out_the_unknown(self, index, encoder):
        query = encoder.encode_queries(["fox"])
        assert list(index.score(query, ["doc-5", "nope", "doc-2"])) == ["doc-5", "doc-2"]
        assert index.score(query, []) == index.score(query, ["nope"]) == {}

    def test_score_takes_one_query(self, index, encoder):
        with pytest.raises(ValueError, match="one text"):
            index.score(encoder.encode_queries(["a", "b"]), ["doc-1"])

    def test_an_empty_index_answers(self, empty, encoder):
        assert empty.candidates(encoder.encode_queries(["fox"]), 5) == {"dense": [], "sparse": []}
        assert (empty.count(), empty.get(["a"]), list(empty.scan()), empty.delete(["a"])) == (0, [], [], 0)
        assert list(empty.scan(with_embeddings=True)) == [] == HybridRetriever(empty).search("fox")

    # Deleting

    def test_delete_by_ids_counts_what_was_there(self, empty):
        empty.upsert(random_documents(5))
        assert empty.delete(["doc-0", "doc-0", "nope", "doc-1"]) == 2
        assert empty.count() == 3
        assert empty.delete([]) == 0

    def test_delete_by_filter(self, empty):
        empty.upsert(random_documents(30))
        assert empty.delete(filter=filters.lt("number", 10)) == 10
        assert empty.delete(filter=filters.eq("even", True)) == 10
        assert {d.metadata["number"] for d in empty.scan()} == set(range(11, 30, 2))

    @pytest.mark.parametrize("arguments", [{}, {"ids": ["a"], "filter": filters.eq("a", 1)}], ids=["none", "two"])
    def test_delete_takes_ids_or_a_filter(self, empty, arguments):
        with pytest.raises(ValueError, match="exactly one of ids, filter, parent_id"):
            empty.delete(**arguments)

    # Scanning

    def test_a_scan_that_writes_to_what_it_reads_ends(self, empty):
        empty.upsert(random_documents(7))
        for document in empty.scan():
            empty.upsert([replace(document, metadata={"seen": True})])
        assert empty.count(filters.eq("seen", True)) == 7


class StoredIndexSuite(IndexSuite):
    """Of engines whose indexes stay, with token vectors by a codec: `reopen` opens one by its name."""

    def test_reopened_it_is_the_same(self, make, reopen, encoder):
        documents = random_documents(10)
        with make() as first:
            first.upsert(documents)
        with reopen(first.name) as index:
            assert by_id(index.scan()) == by_id(documents)
            assert index.upsert(documents).unchanged == 10
            assert len(index.candidates(encoder.encode_queries(["fox"]), 3)["dense"]) == 3

    def test_threads_that_write_at_once_lose_nothing(self, make, reopen):
        batches = [[Document(id=f"{i}-{j}", text=f"{SENTENCES[j]} {i}") for j in range(5)] for i in range(24)]
        with make() as index, ThreadPoolExecutor(8) as threads:
            reports = list(threads.map(index.upsert, batches))
        assert [report.written for report in reports] == [5] * 24
        with reopen(index.name) as index:
            assert by_id(index.scan()) == by_id(document for batch in batches for document in batch)

    @pytest.mark.parametrize("codec", CODECS)
    def test_token_vectors_are_what_the_codec_makes_of_them(self, make, encoder, codec):
        index, documents = make(codec=codec), random_documents(8)
        output = encoder.encode_documents([document.content for document in documents])
        index.upsert(documents, embeddings=output)
        found = index.embeddings([document.id for document in documents])
        for row, document in enumerate(documents):
            kept = as_kept(codec, output.multi_vector[row])
            np.testing.assert_array_equal(found[document.id].multi_vector[0], kept)
