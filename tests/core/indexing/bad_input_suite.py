"""What a user sees on bad input: the rule, what was received, what to do; and the rest is stored."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from m3plugins import Document, HybridIndex, HybridRetriever, M3Output
from m3plugins.encoding import Passages
from m3plugins.retrieval import filters
from tests.tiny import SENTENCES, random_documents

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
    "metadata that are no JSON": (Document(id="x", text="a", metadata={"s": {1, 2}}), "metadata.s must be JSON"),
    "a key that is no string": (Document(id="x", text="a", metadata={1: 2}), "metadata must have string keys, got 1"),
    "a NaN in the metadata": (
        Document(id="x", text="a", metadata={"n": [float("nan")]}),
        r"metadata.n\[0\] must be a finite number, got nan",
    ),
    "deep metadata": (Document(id="x", text="a", metadata={"d": deep}), "must not nest deeper than 64 levels"),
}

ACCEPTED = {
    "empty text": Document(id="x", text=""),
    "whitespace": Document(id="x", text=" \n\t "),
    "NUL": Document(id="a\x00b", text="fox\x00dog", title="\x00", metadata={"a": "\x00"}, parent_id="\x00"),
    "an injection in every field": Document(
        id='"] or key != "',
        text="'; drop",
        title='") or (',
        metadata={'a"] or 1 == 1': "' or '1'='1"},
        parent_id="' or '",
    ),
    "100,000 characters of Latin": Document(id="x", text=(SENTENCES[0] + " ") * 1600),
    "100,000 characters of Thai": Document(id="x", text=SENTENCES[9] * 2000),
    "100,000 characters without a space": Document(id="x", text="x" * 100_000),
}

HOSTILE = ['x" or "1" == "1', "%", "x%", "_", "\\", "') or ('", "*", "?", "x*", ".*", '"}},"match_all":{}', "\x00"]


def assert_refused(index: HybridIndex, bad: Document, reason: str) -> None:
    """It is named, and the others are stored."""
    acknowledged: list[str] = []
    report = index.upsert([GOOD, bad, replace(GOOD, id="fine")], on_ack=acknowledged.extend)
    assert (report.written, [failure.id for failure in report.failed]) == (2, [bad.id])
    assert re.search(reason, report.failed[0].reason)
    assert sorted(acknowledged) == ["fine", "good"] == sorted(d.id for d in index.scan())


def assert_no_filter(index: HybridIndex, wanted: Any, error: type[Exception]) -> str:
    """It is refused, and deletes nothing; returns what was said."""
    index.upsert([GOOD])
    for verb in (index.delete, index.count, lambda filter: list(index.scan(filter))):
        with pytest.raises(error) as caught:
            verb(filter=wanted)
    with pytest.raises(error):
        HybridRetriever(index).search("fox", filter=wanted)
    assert index.count() == 1
    return str(caught.value)


def changed(embedding: M3Output, head: str, change: Callable[[Any], Any]) -> M3Output:
    """With the values of a head changed."""
    if head == "dense":
        return replace(embedding, dense=change(embedding.dense))
    if head == "sparse":
        return replace(embedding, sparse=replace(embedding.sparse, values=change(embedding.sparse.values)))
    vectors = replace(embedding.multi_vector, vectors=change(embedding.multi_vector.vectors))
    return replace(embedding, multi_vector=vectors)


class BadInputSuite:
    """Subclasses have the fixtures of an engine: `make`, and those that are made of it."""

    def own_verbs(self, index: HybridIndex) -> list[Callable[[], Any]]:
        """What an engine has besides those of every index."""
        return []

    @pytest.mark.parametrize(("bad", "reason"), REFUSED.values(), ids=REFUSED)
    def test_a_document_that_cannot_be_stored_is_named_and_the_others_are_stored(self, empty, bad, reason):
        assert_refused(empty, bad, reason)

    @pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
    def test_odd_documents_come_back_to_the_letter_and_are_found(self, empty, document):
        report = empty.upsert([GOOD, document])
        assert (report.written, report.failed) == (2, [])
        assert report.truncated == (len(document.text) > 9999)
        assert empty.get([document.id]) == [document]
        assert document.id in {hit.id for hit in HybridRetriever(empty).search("fox", k=5)}
        assert empty.delete([document.id]) == 1
        assert [d.id for d in empty.scan()] == ["good"]

    def test_no_documents_are_no_error(self, empty):
        report = empty.upsert([])
        assert (report.written, report.unchanged, report.failed) == (0, 0, [])
        assert HybridRetriever(empty).search("fox") == []

    def test_duplicates_in_one_call_are_replaced_in_order(self, empty):
        report = empty.upsert([replace(GOOD, text=f"version {n}") for n in range(5)])
        assert report.failed == []
        assert [d.text for d in empty.scan()] == ["version 4"]

    # Embeddings

    @pytest.mark.parametrize("head", ["dense", "sparse", "multi_vector"])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_embeddings_that_are_not_finite_fail_their_document(self, empty, embedding, head, value):
        wrong = changed(embedding, head, lambda array: np.full_like(array, value))
        for order in (1, -1):
            documents, embeddings = [Document(id="bad", text="x"), GOOD][::order], [wrong, embedding][::order]
            report = empty.upsert(documents, embeddings=embeddings)
            assert report.failed == [("bad", "embeddings must be finite, got NaN or infinity")]
            assert report.written + report.unchanged == 1

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (
                lambda sparse: replace(sparse, values=-sparse.values),
                "sparse weights must not be negative, got -.*; M3's are 0 or more",
            ),
            (
                lambda sparse: replace(sparse, indices=sparse.indices + sparse.vocab_size),
                "sparse weights must be of token ids from 0 to .*, got ",
            ),
        ],
        ids=["negative", "outside the vocabulary"],
    )
    def test_sparse_weights_that_would_be_dropped_fail_their_document(self, empty, embedding, change, reason):
        wrong = replace(embedding, sparse=change(embedding.sparse))
        report = empty.upsert([Document(id="bad", text="x"), GOOD], embeddings=[wrong, embedding])
        ((failed, why),) = report.failed
        assert failed == "bad" and re.match(reason, why)
        assert report.written + report.unchanged == 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda e: replace(e, dense=e.dense[:, :16]),
            lambda e: replace(e, sparse=replace(e.sparse, vocab_size=10)),
            lambda e: e.select(["dense", "sparse"]),
        ],
        ids=["dense", "sparse", "no token vectors"],
    )
    def test_embeddings_of_another_shape_fail_their_document(self, empty, embedding, change):
        report = empty.upsert([Document(id="a", text="a")], embeddings=[change(embedding)])
        assert (report.written, [failure.id for failure in report.failed]) == (0, ["a"])
        assert "embeddings must" in report.failed[0].reason

    @pytest.mark.parametrize(("factor", "length"), [(2.0, "2"), (0.0, "0"), (1e30, "1e+30"), (0.999, "0.999")])
    def test_a_dense_vector_that_is_not_of_unit_length_fails_its_document(self, empty, embedding, factor, length):
        wrong = changed(embedding, "dense", lambda array: (array * np.float32(factor)).astype(np.float32))
        report = empty.upsert([Document(id="bad", text="x"), GOOD], embeddings=[wrong, embedding])
        assert (report.written, [failure.id for failure in report.failed]) == (1, ["bad"])
        assert report.failed[0].reason == f"dense embeddings must be of unit length, got {length}; normalise them"

    def test_dense_vectors_of_half_precision_are_stored(self, empty, encoder):
        output = encoder.encode_documents(SENTENCES)
        halves = replace(output, dense=output.dense.astype(np.float16).astype(np.float32))
        documents = [Document(id=str(n), text=text) for n, text in enumerate(SENTENCES)]
        assert empty.upsert(documents, embeddings=halves).failed == []

    def test_token_weights_as_large_as_there_are_stay_finite(self, empty, embedding):
        largest = float(np.finfo(np.float32).max)
        odd = changed(embedding, "sparse", lambda values: np.full_like(values, largest))
        assert empty.upsert([GOOD], embeddings=odd).failed == []
        stored = empty.embeddings(["good"])["good"].sparse[0].to_dict()
        assert stored == {token: pytest.approx(largest, rel=4e-3) for token in embedding.sparse[0].to_dict()}

    # Filters

    def test_a_filter_that_is_none_is_refused_and_deletes_nothing(self, empty):
        assert_no_filter(empty, ["a"], TypeError)

    def test_a_hostile_filter_value_matches_itself_only(self, empty):
        empty.upsert([GOOD, replace(GOOD, id="other", metadata={"a": "x"})])
        for value in HOSTILE:
            for ours in (filters.eq, filters.prefix, filters.contains):
                assert empty.count(ours("a", value)) == 0
                assert empty.delete(filter=ours("a", value)) == 0
        assert empty.count() == 2

    # Closed indexes

    @pytest.fixture
    def closed(self, make):
        index = make()
        index.upsert([GOOD])
        index.close()
        index.close()
        return index

    def verbs(self, index: HybridIndex) -> list[Callable[[], Any]]:
        query = index.encoder.encode_queries(["fox"])
        return [
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
            lambda: HybridRetriever(index).search("fox"),
            *self.own_verbs(index),
        ]

    def test_every_verb_of_a_closed_index_says_so(self, closed):
        for verb in self.verbs(closed):
            with pytest.raises(ValueError, match=f"this index is closed; .* {type(closed).__name__}"):
                verb()


class StoredBadInputSuite(BadInputSuite):
    """Of engines whose indexes stay: there is a fixture `reopen`, too, which opens one by its name.

    Attributes:
        error: What the engine raises for what its server says.
        meaningless: Token weights that it leaves out.
    """

    error: type[Exception]
    meaningless: tuple[float, ...] = (0.0,)

    @pytest.mark.parametrize("text", [(SENTENCES[0] + " ") * 300, SENTENCES[9] * 400], ids=["Latin", "Thai"])
    def test_as_passages_long_texts_are_read_to_the_end(self, make, text):
        with make(passages=Passages(size=500, overlap=50)) as index:
            report = index.upsert([Document(id="x", text=text)])
            assert (report.written, report.truncated) == (1, 0)
            assert index.count() > 10

    def own_verbs(self, index):
        return [lambda: index.drop(), lambda: index.swap("live"), lambda: index.reembed(index.encoder, into="other")]

    def test_token_weights_that_mean_nothing_are_left_out(self, empty, embedding, encoder):
        weights = embedding.sparse[0].to_dict()
        for weight in self.meaningless:
            odd = changed(
                embedding, "sparse", lambda values, weight=weight: np.array([weight, *values[1:]], np.float32)
            )
            assert empty.upsert([GOOD], embeddings=odd).failed == []
            stored = empty.embeddings(["good"])["good"].sparse[0].to_dict()
            assert stored.keys() == weights.keys() - {next(iter(weights))}
            assert empty.candidates(encoder.encode_queries([GOOD.text]), 3)["sparse"]

    def test_verbs_of_a_closed_index_do_nothing(self, closed, reopen):
        for verb in self.verbs(closed):
            with suppress(ValueError):
                verb()
        with reopen(closed.name) as index:
            assert index.get(["good"]) == list(index.scan()) == [GOOD]

    def test_closed_under_a_thread_that_writes_and_one_that_searches_it_ends_both(self, make, reopen, encoder):
        """With an error that says so, and nothing is damaged."""
        index, query = make(), encoder.encode_queries(["fox"])
        acked, errors, writing, searching = [], [], threading.Event(), threading.Event()

        def write() -> None:
            def on_ack(ids):
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

        threads = [threading.Thread(target=catch, args=(work,), daemon=True) for work in (write, search)]
        for thread in threads:
            thread.start()
        assert writing.wait(60) and searching.wait(60)
        index.close()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert [err for err in errors if not isinstance(err, (ValueError, self.error))] == []
        assert len(errors) == 2
        with reopen(index.name) as again:
            assert {document.id for document in again.get(acked)} == set(acked)
            again.writer.flush()  # which the closed one could not: without, searches may see it later
            assert len(again.score(query, acked)) == len(set(acked)) <= again.count()
