"""What a user sees on bad input: the rule, what was received, what to do; and the rest is stored."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from m3plugins import Document, HybridRetriever
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from m3plugins_elasticsearch import ElasticsearchHybridIndex, ElasticsearchIndexError
from tests.elasticsearch.conftest import Create
from tests.milvus.conftest import random_documents
from tests.tiny import SENTENCES

GOOD = Document(id="good", text="The quick brown fox")
deep: list = []
for _ in range(100):
    deep = [deep]

REFUSED = {
    "lone surrogate in the text": (
        Document(id="x", text="ab\ud800"),
        "text must be valid Unicode, got a lone surrogate at character 2; repair the text first",
    ),
    "lone surrogate in the id": (Document(id="\udfff", text="a"), "id must be valid Unicode, got a lone surrogate"),
    "empty id": (Document(id="", text="a"), "id must not be empty"),
    "id over the limit in bytes": (
        Document(id="é" * 256 + "x", text="a"),
        "id must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it",
    ),
    "parent's id over the limit": (
        Document(id="x", text="a", parent_id="x" * 513),
        "parent_id must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it",
    ),
    "metadata that are no JSON": (Document(id="x", text="a", metadata={"s": {1, 2}}), "metadata.s must be JSON"),
    "a key that is no string": (Document(id="x", text="a", metadata={1: 2}), "metadata must have string keys, got 1"),
    "a NaN in the metadata": (
        Document(id="x", text="a", metadata={"n": [float("nan")]}),
        r"metadata.n\[0\] must be a finite number, got nan",
    ),
    "deep metadata": (Document(id="x", text="a", metadata={"d": deep}), "must not nest deeper than 64 levels"),
    "an integer of 65 bits": (
        Document(id="x", text="a", metadata={"n": [{"m": 2**64}]}),
        "metadata.n.m must fit 64 bits for Elasticsearch, got 65 bits; store it as a string",
    ),
    "a negative one": (Document(id="x", text="a", metadata={"n": -(2**63) - 1}), "metadata.n must fit 64 bits"),
    "a NUL in a key": (Document(id="x", text="a", metadata={"a": {"\0": 1}}), "metadata.a must have keys without NUL"),
    "a key of 4,001 characters": (
        Document(id="x", text="a", metadata={"k" * 4001: 1}),
        "metadata must have keys without NUL, of at most 4,000 characters, got 'kkk",
    ),
}


@pytest.mark.parametrize(("bad", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_document_that_cannot_be_stored_is_named_and_the_others_are_stored(empty, bad, reason):
    acknowledged = []
    report = empty.upsert([GOOD, bad, replace(GOOD, id="fine")], on_ack=acknowledged.extend)
    assert (report.written, [failure.id for failure in report.failed]) == (2, [bad.id])
    assert re.search(reason, report.failed[0].reason)
    assert sorted(acknowledged) == ["fine", "good"] == sorted(d.id for d in empty.scan())


@pytest.mark.parametrize("text", [(SENTENCES[0] + " ") * 300, SENTENCES[9] * 400], ids=["Latin", "Thai"])
def test_as_passages_long_texts_are_read_to_the_end(make: Create, text):
    with make(passages=Passages(size=500, overlap=50)) as index:
        report = index.upsert([Document(id="x", text=text)])
        assert (report.written, report.truncated) == (1, 0)
        assert index.count() > 10


def test_no_documents_are_no_error(empty):
    report = empty.upsert([])
    assert (report.written, report.unchanged, report.failed) == (0, 0, [])
    assert HybridRetriever(empty).search("fox") == []


def test_duplicates_in_one_call_are_replaced_in_order(empty):
    report = empty.upsert([replace(GOOD, text=f"version {n}") for n in range(5)])
    assert report.failed == []
    assert [d.text for d in empty.scan()] == ["version 4"]


# Embeddings


def broken(embedding, head, change):
    if head == "dense":
        return replace(embedding, dense=change(embedding.dense))
    if head == "sparse":
        return replace(embedding, sparse=replace(embedding.sparse, values=change(embedding.sparse.values)))
    vectors = replace(embedding.multi_vector, vectors=change(embedding.multi_vector.vectors))
    return replace(embedding, multi_vector=vectors)


@pytest.mark.parametrize("head", ["dense", "sparse", "multi_vector"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_fail_their_document(empty, embedding, head, value):
    wrong = broken(embedding, head, lambda array: np.full_like(array, value))
    report = empty.upsert([Document(id="bad", text="x"), GOOD], embeddings=[wrong, embedding])
    assert (report.written, report.failed) == (1, [("bad", "embeddings must be finite, got NaN or infinity")])


@pytest.mark.parametrize(("factor", "length"), [(2.0, "2"), (0.0, "0"), (1e30, "1e+30"), (0.999, "0.999")])
def test_a_dense_vector_that_is_not_of_unit_length_fails_its_document(empty, embedding, factor, length):
    wrong = broken(embedding, "dense", lambda array: (array * np.float32(factor)).astype(np.float32))
    report = empty.upsert([Document(id="bad", text="x"), GOOD], embeddings=[wrong, embedding])
    assert (report.written, [failure.id for failure in report.failed]) == (1, ["bad"])
    assert report.failed[0].reason == f"dense embeddings must be of unit length, got {length}; normalise them"


def test_a_dense_vector_of_half_precision_is_of_unit_length(empty, encoder):
    output = encoder.encode_documents(SENTENCES)
    halves = replace(output, dense=output.dense.astype(np.float16).astype(np.float32))
    documents = [Document(id=str(n), text=text) for n, text in enumerate(SENTENCES)]
    assert empty.upsert(documents, embeddings=halves).failed == []


@pytest.mark.parametrize("weight", [0.0, -0.5, 1e-39])
def test_token_weights_that_mean_nothing_are_left_out(empty, embedding, encoder, weight):
    weights = embedding.sparse[0].to_dict()
    first = next(iter(weights))
    odd = broken(embedding, "sparse", lambda values: np.where(np.arange(len(values)) == 0, np.float32(weight), values))
    assert empty.upsert([GOOD], embeddings=odd).failed == []
    stored = empty.embeddings(["good"])["good"].sparse[0].to_dict()
    assert stored.keys() == weights.keys() - {first}
    assert empty.candidates(encoder.encode_queries([GOOD.text]), 3)["sparse"]


def test_token_weights_as_large_as_there_are_stay_finite(empty, embedding):
    largest = float(np.finfo(np.float32).max)
    odd = broken(embedding, "sparse", lambda values: np.full_like(values, largest))
    assert empty.upsert([GOOD], embeddings=odd).failed == []
    stored = empty.embeddings(["good"])["good"].sparse[0].to_dict()
    assert stored == {token: pytest.approx(largest, rel=4e-3) for token in stored}


@pytest.mark.parametrize(
    "change",
    [
        lambda e: replace(e, dense=e.dense[:, :16]),
        lambda e: replace(e, sparse=replace(e.sparse, vocab_size=10)),
        lambda e: e.select(["dense", "sparse"]),
    ],
    ids=["dense", "sparse", "no token vectors"],
)
def test_embeddings_of_another_shape_fail_their_document(empty, embedding, change):
    report = empty.upsert([Document(id="a", text="a")], embeddings=[change(embedding)])
    assert (report.written, [failure.id for failure in report.failed]) == (0, ["a"])
    assert "embeddings must" in report.failed[0].reason


# Filters


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"nope": {"id": "a"}}, ElasticsearchIndexError),
        ({"term": {"id": ["a"]}}, ElasticsearchIndexError),
        ({"bool": {"must": "x"}}, ElasticsearchIndexError),
        ({"script": {"script": "true"}}, ElasticsearchIndexError),
        ({}, ValueError),
        ({"term": {"id": "a"}, "match_all": {}}, ValueError),
        ({"eq": {"a": 1}}, ElasticsearchIndexError),
        ("id:a", TypeError),
        ("", TypeError),
        (["a"], TypeError),
    ],
    ids=str,
)
def test_a_filter_that_is_none_is_refused_and_deletes_nothing(empty, wanted, error):
    empty.upsert([GOOD])
    for verb in (empty.delete, empty.count, lambda filter: list(empty.scan(filter))):
        with pytest.raises(error) as caught:
            verb(filter=wanted)
        assert "\n" not in str(caught.value)
    with pytest.raises(error):
        HybridRetriever(empty).search("fox", filter=wanted)
    assert empty.count() == 1


def test_a_hostile_filter_value_matches_itself_only(empty):
    empty.upsert([GOOD, replace(GOOD, id="other", metadata={"a": "x"})])
    for value in (
        'x" or "1" == "1',
        "%",
        "x%",
        "_",
        "\\",
        "') or ('",
        "*",
        "?",
        "x*",
        ".*",
        '"}},"match_all":{}',
        "\x00",
    ):
        for ours in (filters.eq, filters.prefix, filters.contains):
            assert empty.count(ours("a", value)) == 0
            assert empty.delete(filter=ours("a", value)) == 0
        assert empty.count({"term": {"metadata.a": value}}) == 0
    assert empty.count() == 2


# Closed indexes


def test_every_verb_of_a_closed_index_says_so(make: Create, encoder, es_url):
    index = make()
    index.upsert([GOOD])
    query = encoder.encode_queries(["fox"])
    index.close()
    index.close()
    verbs = [
        lambda: index.upsert([GOOD]),
        lambda: index.update_metadata({"good": {}}),
        lambda: index.delete(["good"]),
        lambda: index.get(["good"]),
        lambda: index.embeddings(["good"]),
        lambda: index.count(),
        lambda: index.scan(),
        lambda: index.scan(with_embeddings=True),
        lambda: index.candidates(query, 1),
        lambda: index.score(query, ["good"]),
        lambda: index.probe(),
        lambda: index.swap("live"),
        lambda: index.reembed(encoder, into="other"),
        lambda: index.drop(),
        lambda: HybridRetriever(index).search("fox"),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="this index is closed; open it again with ElasticsearchHybridIndex.open"):
            verb()
    with ElasticsearchHybridIndex.open(index.name, encoder=encoder, uri=es_url) as index:
        assert index.get(["good"]) == [GOOD]


def test_a_scan_of_an_index_that_is_closed_meanwhile_ends_with_an_error_and_can_be_given_up(make: Create):
    index = make()
    index.upsert(random_documents(40))
    going, given_up = index.scan(with_embeddings=True), index.scan(with_embeddings=True)
    next(going), next(given_up)
    index.close()
    given_up.close()
    with pytest.raises(ElasticsearchIndexError, match="the client was closed meanwhile; open the index again"):
        list(going)


def test_closed_under_a_thread_that_writes_and_one_that_searches(make: Create, encoder, es_url):
    """Both end with an error that says so, and nothing is damaged."""
    index, query = make(), encoder.encode_queries(["fox"])
    acked: list[str] = []
    errors: list[BaseException] = []
    writing, searching = threading.Event(), threading.Event()

    def write() -> None:
        def on_ack(ids: list[str]) -> None:
            acked.extend(ids)
            writing.set()

        index.upsert((document for seed in range(1000) for document in random_documents(40, seed)), on_ack=on_ack)

    def search() -> None:
        while True:
            index.candidates(query, 5)
            searching.set()

    def catch(work) -> None:
        try:
            work()
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=catch, args=(work,)) for work in (write, search)]
    for thread in threads:
        thread.start()
    assert writing.wait(60) and searching.wait(60)
    index.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert [err for err in errors if not isinstance(err, ValueError | ElasticsearchIndexError)] == []
    assert len(errors) == 2
    with ElasticsearchHybridIndex.open(index.name, encoder=encoder, uri=es_url) as again:
        assert {document.id for document in again.get(acked)} == set(acked)
        again.writer.flush()  # which the closed one could not: without, searches see it a second later
        assert len(again.score(query, acked)) == len(set(acked)) <= again.count()
