"""What a search asks, as a pure function of the query; the last test sends the extremes to the node."""

import json

import numpy as np
import pytest
from elasticsearch import Elasticsearch
from hypothesis import given
from hypothesis import strategies as st

from m3plugins import M3Output
from m3plugins.encoding.sparse import SparseEmbeddings
from m3plugins_elasticsearch.field_paths import FieldPaths
from m3plugins_elasticsearch.identity import OVERSAMPLE, Identity
from m3plugins_elasticsearch.requests import MAX_K, check_k, light, nearest, scores, searches

OURS, THEIRS = FieldPaths(), FieldPaths.of({"text": ["body"], "title": ""})
WHERE = {"terms": {"facets": ["x"]}}


def identity(kind="int8_hnsw") -> Identity:
    widths = {"dim": 2, "multi_vector_dim": 2, "vocab_size": 10, "document_max_length": 9}
    return Identity(fingerprint="f", settings={}, dense_index={"type": kind}, **widths)


def query(dense=True, weights=({3: 0.5, 7: 1.5},)) -> M3Output:
    return M3Output(
        dense=np.array([[0.6, 0.8]], np.float32) if dense else None,
        sparse=SparseEmbeddings.from_dicts(list(weights), vocab_size=10) if weights else None,
        multi_vector=None,
        token_counts=np.array([2], np.int32),
        truncated=np.array([False]),
    )


def ask(asked=None, text=None, k=10, where=None, kind="int8_hnsw", paths=OURS):
    return searches(asked or query(), text, k, where, identity(kind), paths)


def test_there_is_one_search_a_leg_that_the_query_has():
    assert list(ask()) == ["dense", "sparse"]
    assert list(ask(text="fox")) == ["dense", "sparse", "bm25"]
    assert list(ask(query(dense=False))) == ["sparse"]
    assert list(ask(query(weights=()))) == ["dense"]
    assert list(ask(query(dense=False, weights=()))) == []
    assert list(ask(query(dense=False, weights=()), text="")) == ["bm25"]


def test_without_token_weights_the_sparse_leg_is_not_asked():
    assert list(ask(query(weights=[{}]))) == ["dense"]
    assert list(ask(query(weights=[{3: 1e-39}]))) == ["dense"]  # less than Elasticsearch can hold


@pytest.mark.parametrize("text", [None, "fox"])
@pytest.mark.parametrize("where", [None, WHERE], ids=["", "filtered"])
def test_searches_load_no_document_and_are_json(text, where):
    for body in ask(text=text, where=where, paths=THEIRS).values():
        assert json.loads(json.dumps(body)) == body
        assert (body["stored_fields"], body["docvalue_fields"]) == ("_none_", ["m3.id"])
        assert body["sort"] == ["_score", {"m3.id": "asc"}]
        assert "_source" not in body and body["track_total_hits"] is False


def test_sparse_weights_are_sent_as_they_are_and_never_pruned():
    """Elasticsearch prunes unless it is told not to."""
    asked = ask()["sparse"]["query"]["sparse_vector"]
    assert asked == {"field": "sparse", "query_vector": {"3": 0.5, "7": 1.5}, "prune": False}


def test_filters_hold_for_every_leg_and_score_nothing():
    bodies = ask(text="fox", where=WHERE)
    assert bodies["dense"]["knn"]["filter"] == WHERE
    for signal in ("sparse", "bm25"):
        assert bodies[signal]["query"]["bool"]["filter"] == [WHERE]
        assert len(bodies[signal]["query"]["bool"]["must"]) == 1


@given(st.integers(1, MAX_K), st.sampled_from(sorted(OVERSAMPLE)))
def test_no_search_is_larger_than_elasticsearch_allows(k, kind):
    asked = nearest(query(), k, identity(kind), OURS)
    assert asked["k"] == k <= asked["num_candidates"] <= MAX_K
    assert 1.0 <= asked["rescore_vector"]["oversample"]
    assert asked["rescore_vector"]["oversample"] * k <= MAX_K * (1 + 1e-9)
    assert asked["num_candidates"] >= min(2 * k, MAX_K)


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, 10**9])
def test_what_elasticsearch_cannot_search_for_is_refused(k):
    with pytest.raises(ValueError, match="searches for 1 to 10,000 documents at a time.*ask for fewer candidates"):
        check_k(k)


def test_scores_are_asked_of_these_documents_alone_under_names():
    ids = ["a", "b", "c"]
    body = scores(query(), "fox", ids, OURS)
    assert body["size"] == 3 and body["stored_fields"] == "_none_"
    (only,) = body["query"]["bool"]["filter"]
    assert only == {"ids": {"values": ids}}
    knn, sparse, match = body["query"]["bool"]["should"]
    assert (knn["knn"]["k"], knn["knn"]["num_candidates"], knn["knn"]["filter"]) == (3, 3, only)
    assert knn["knn"]["rescore_vector"] == {"oversample": 1.0}  # else int8 and the like score by what they rounded
    assert sparse["sparse_vector"]["prune"] is False
    names = [knn["knn"]["_name"], sparse["sparse_vector"]["_name"], match["match"]["content"]["_name"]]
    assert names == ["dense", "sparse", "bm25"]
    assert "minimum_should_match" not in body["query"]["bool"]  # who shares nothing has scores of 0


def test_scores_of_a_head_that_the_query_lacks_are_not_asked():
    assert [*scores(query(dense=False), None, ["a"], OURS)["query"]["bool"]["should"][0]] == ["sparse_vector"]
    assert scores(query(dense=False, weights=[{}]), None, ["a"], OURS)["query"]["bool"]["should"] == []


def test_what_is_given_is_left_as_it_is():
    where = {"bool": {"filter": [{"term": {"a": 1}}]}}
    before = json.dumps(where)
    fields = ["id"]
    ask(where=where, text="fox")
    light(fields, 3)["docvalue_fields"].append("x")
    assert (json.dumps(where), fields) == (before, ["id"])


@pytest.mark.parametrize("head", ["dense", "sparse", "multi_vector"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_a_query_that_is_not_finite_is_refused_before_anything_is_asked(scratch, encoder, monkeypatch, head, value):
    """NaN is not JSON, and token weights that are NaN would be left out without a word."""
    asked = encoder.encode_queries(["the quick brown fox"])
    arrays = {"dense": asked.dense, "sparse": asked.sparse.values, "multi_vector": asked.multi_vector.vectors}
    arrays[head].flat[3] = value
    monkeypatch.setattr(Elasticsearch, "perform_request", None)
    for verb in (lambda: scratch.candidates(asked, 3), lambda: scratch.score(asked, ["a"])):
        with pytest.raises(ValueError, match=f"query must hold finite numbers, got {value} in its {head} embedding; "):
            verb()


@pytest.mark.parametrize("k", [1, 3_333, 10_000])
def test_the_node_takes_every_size(scratch, encoder, k):
    assert scratch.candidates(encoder.encode_queries(["fox"]), k) == {"dense": [], "sparse": []}
