"""Bad input on Elasticsearch: what it has limits on, weights and filters that it cannot read."""

import pytest

from m3plugins import Document
from m3plugins_elasticsearch import ElasticsearchIndexError
from tests.core.indexing.bad_input_suite import (
    HOSTILE,
    StoredBadInputSuite,
    assert_no_filter,
    assert_refused,
)
from tests.elasticsearch.conftest import Create
from tests.tiny import random_documents

LIMITS = {
    "id": (
        Document(id="é" * 256 + "x", text="a"),
        "id must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it",
    ),
    "parent's id": (
        Document(id="x", text="a", parent_id="x" * 513),
        "parent_id must be at most 512 bytes of UTF-8 for Elasticsearch, got 513; shorten it",
    ),
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


class TestBadInput(StoredBadInputSuite):
    error = ElasticsearchIndexError
    meaningless = (0.0, 1e-39)

    def own_verbs(self, index):
        return [*super().own_verbs(index), lambda: index.probe()]


@pytest.mark.parametrize(("bad", "reason"), LIMITS.values(), ids=LIMITS)
def test_a_document_over_a_limit_is_named_and_the_others_are_stored(empty, bad, reason):
    assert_refused(empty, bad, reason)


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
    ],
    ids=str,
)
def test_a_filter_that_is_none_is_refused_and_deletes_nothing(empty, wanted, error):
    assert "\n" not in assert_no_filter(empty, wanted, error)


def test_a_hostile_value_of_a_native_query_matches_itself_only(index):
    for value in HOSTILE:
        assert index.count({"term": {"metadata.lang": value}}) == 0


def test_a_scan_of_an_index_that_is_closed_meanwhile_ends_with_an_error_and_can_be_given_up(make: Create):
    index = make()
    index.upsert(random_documents(40))
    going, given_up = index.scan(with_embeddings=True), index.scan(with_embeddings=True)
    next(going), next(given_up)
    index.close()
    given_up.close()
    with pytest.raises(ElasticsearchIndexError, match="the client was closed meanwhile; open the index again"):
        list(going)
