import json
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymilvus import DataType, MilvusClient
from pymilvus.client.prepare import Prepare

from m3plugins.retrieval import filters
from m3plugins_milvus import requests, schema
from m3plugins_milvus.filters import compile_filter
from m3plugins_milvus.schema import KEY, MAX_VARCHAR, SPARSE_INDEX, search_params

HASHES = [f"{n:032x}" for n in range(1000)]
PLAN = compile_filter(filters.and_(filters.eq("lang", "x' or 1 == 1"), filters.gt("year", 2020)))
REQUESTS = [
    requests.create("docs", schema.blocks_schema(), schema.blocks_index()),
    requests.write("docs", [{KEY: HASHES[0], "data": "x"}]),
    requests.delete("docs", HASHES),
    requests.query("docs", requests.both(PLAN.expression, requests.under("ab")), [KEY], requests.MAX_ROWS),
    requests.count("docs", PLAN.expression),
    requests.search("docs", "dense", np.zeros(4), PLAN.expression, 101, search_params("HNSW", 101), "Bounded"),
    requests.search("docs", "sparse", {7: 0.5}, "", requests.MAX_ROWS, search_params(SPARSE_INDEX, 5), "Strong"),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_are_what_every_milvus_takes(request_):
    assert request_["collection_name"] == "docs"
    assert "ids" not in request_
    assert "drop_ratio" not in str(request_.get("search_params"))
    assert request_.get("limit", 1) <= 16_384


@pytest.mark.parametrize("request_", [r for r in REQUESTS if "filter" in r])
def test_expressions_hold_keys_and_hashes_only(request_):
    assert set(request_["filter"]) <= set(string.ascii_letters + string.digits + '()"% =<>$[],.')
    assert "1 == 1" not in request_["filter"]


def test_reads_see_every_write_and_searches_as_much_as_they_are_told_to():
    levels = [request.get("consistency_level") for request in REQUESTS]
    assert levels == ["Strong", None, None, "Strong", "Strong", "Bounded", "Strong"]


def test_expressions_are_joined_without_changing_what_they_mean():
    assert requests.both("a or b", requests.under("f0")) == '(a or b) and (key like "f0%")'
    assert requests.both("", requests.under("f0")) == 'key like "f0%"'
    assert requests.both("a or b", requests.under("")) == "a or b"


def test_keys_are_the_whole_expression():
    assert requests.delete("docs", ["aa", "b:0"])["filter"] == 'key in ["aa", "b:0"]'


@given(st.sets(st.sampled_from(["id", "text", "dense", "sparse", "revision"])))
def test_answers_stay_within_the_limit_whatever_is_in_them(fields):
    wide = sum(field != "revision" for field in fields)
    rows = requests.rows_per_read(fields)
    assert 1 <= rows <= 1000
    assert rows * wide * MAX_VARCHAR <= requests.MAX_READ


def fields_of_every_kind(dim: int) -> list[dict[str, object]]:
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field(KEY, DataType.VARCHAR, max_length=32, is_primary=True)
    fields.add_field("text", DataType.VARCHAR, max_length=MAX_VARCHAR)
    fields.add_field("parent_id", DataType.VARCHAR, max_length=MAX_VARCHAR, nullable=True)
    fields.add_field("metadata", DataType.JSON)
    fields.add_field("token_count", DataType.INT32)
    fields.add_field("truncated", DataType.BOOL)
    fields.add_field("dense", DataType.FLOAT_VECTOR, dim=dim)
    fields.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    return fields.to_dict()["fields"]


def row(text: str, weights: int, dim: int, metadata: object) -> requests.Row:
    return {
        KEY: HASHES[1],
        "text": text,
        "parent_id": None,
        "metadata": metadata,
        "token_count": 70,
        "truncated": False,
        "dense": np.linspace(-1, 1, dim, dtype=np.float32),
        "sparse": {n * 31: 0.1 + n for n in range(weights)},
        "lo" + "A" * 24: 3.25,  # dynamic
        "hi" + "B" * 24: "e78b90" * 8,
    }


@pytest.mark.parametrize("text", ["", "fox " * 500, "狐" * 20_000])
@pytest.mark.parametrize("weights", [1, 500, 8000])
@pytest.mark.parametrize("dim", [8, 1024])
@pytest.mark.parametrize("metadata", [{}, {"tags": ["狐", "a" * 100] * 50, "n": {"x": [1, 2.5, None, True]}}])
def test_row_sizes_are_those_of_the_wire(text, weights, dim, metadata):
    fields = fields_of_every_kind(dim)
    rows = [row(text, weights, dim, metadata)] * 3
    sent = Prepare.row_upsert_param("docs", requests.write("docs", rows)["data"], "", fields, enable_dynamic=True)
    estimate = sum(requests.row_size(one) for one in rows)
    assert sent.ByteSize() - 200 <= estimate <= 1.3 * sent.ByteSize() + 600


def test_a_text_is_sent_as_it_is():
    """Past pymilvus' check of each character, which takes 5 ms a block."""
    sent = requests.write("docs", [{KEY: "a", "data": 'x"\\狐'}])["data"][0]["data"]
    assert (sent, json.dumps(sent), list(sent)) == ('x"\\狐', json.dumps('x"\\狐'), [])
