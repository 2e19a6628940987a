"""The service over HTTP: the encoder's own embeddings, and polite refusals."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import httpx
import numpy as np
import pytest

from m3plugins.encoding import HEADS
from m3plugins.encoding.wire import MEDIA_TYPE, from_bytes
from tests.core.serving.conftest import served
from tests.core.serving.test_batcher import same
from tests.tiny import SENTENCES

BINARY = {"accept": MEDIA_TYPE}


def ask(client, **body) -> httpx.Response:
    return client.post("/v1/encode", json=body)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_the_binary_form_has_the_encoders_embeddings(client, encoder, kind):
    encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
    answer = client.post("/v1/encode", json={"input": SENTENCES, "kind": kind}, headers=BINARY)
    assert answer.headers["content-type"] == MEDIA_TYPE
    same(from_bytes(answer.content), encode(SENTENCES))


def test_json_has_the_same_numbers(client, encoder):
    answer = ask(client, input=SENTENCES[:3]).json()
    expected = encoder.encode_documents(SENTENCES[:3])
    assert answer["fingerprint"] == encoder.fingerprint
    for row, one in enumerate(answer["data"]):
        np.testing.assert_allclose(one["dense"], expected.dense[row], atol=1e-6)
        assert {int(i) for i in one["sparse"]} == expected.sparse[row].to_dict().keys()
        np.testing.assert_allclose(one["multi_vector"], expected.multi_vector[row], atol=1e-6)
        assert one["token_count"] == expected.token_counts[row] and one["truncated"] is False


@pytest.mark.parametrize("head", HEADS)
def test_heads_that_are_not_asked_for_are_null(client, head):
    (one,) = ask(client, input="a fox", heads=[head]).json()["data"]
    assert [name for name in HEADS if one[name] is not None] == [head]


def test_dense_and_sparse_asked_separately_are_one_pass(client, gate):
    gate.opened.set()
    for head in HEADS[:2]:
        assert ask(client, input="asked separately", heads=[head]).status_code == 200
    assert gate.batches == [1]


def test_many_at_once_each_get_their_own(client, encoder):
    texts = [f"a fox and {number} dogs" for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(client, input=text, heads=["dense"]).json()["data"][0], texts))
    expected = encoder.encode_documents(texts, heads=["dense"]).dense
    np.testing.assert_allclose([answer["dense"] for answer in answers], expected, atol=1e-5)


def test_it_says_what_a_client_needs_to_behave_as_the_encoder(client, encoder):
    told = client.get("/v1/info").json()
    assert told["fingerprint"] == encoder.fingerprint and told["dim"] == encoder.dim
    assert told["probes"] == dict(encoder.probes)
    assert client.get("/health").json() == {"status": "ok"} and client.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        ("{not json", {}, 422, "JSON"),
        (json.dumps({"input": "a"}), {"content-type": "text/plain"}, 422, "body"),
        (json.dumps({"input": []}), {}, 422, "input must be of 1 to 4 texts, got 0"),
        (json.dumps({"input": ["a"] * 5}), {}, 422, "input must be of 1 to 4 texts, got 5"),
        (json.dumps({"input": [1]}), {}, 422, "valid string"),
        (json.dumps({"input": "a", "heads": ["colbert"]}), {}, 422, "'multi_vector'"),
        (json.dumps({"input": "a", "heads": []}), {}, 422, "at least 1"),
        (json.dumps({"input": "a", "head": ["dense"]}), {}, 422, "head"),
        ('{"input": "\\ud800"}', {}, 422, "Unicode"),
        ("x" * 3000, {}, 413, "a body must be of at most 2,000 bytes"),
    ],
)
def test_what_it_cannot_answer_is_refused_with_the_rule(encoder, content, headers, status, message):
    with served(encoder, max_texts=4, max_body_bytes=2000) as client:
        answer = client.post("/v1/encode", content=content, headers={"content-type": "application/json", **headers})
        assert answer.status_code == status
        assert message in answer.json()["error"]["message"]
        assert ask(client, input="a fox").status_code == 200  # it goes on


def test_a_body_is_bounded_whatever_its_headers_say(encoder):
    def endless():
        yield b'{"input": "'
        for _ in range(1000):
            yield b"x" * 1000

    with served(encoder, max_body_bytes=2000) as client:
        answer = client.post("/v1/encode", content=endless(), headers={"content-type": "application/json"})
        assert answer.status_code == 413


def test_a_key_is_asked_for_where_there_are_some(encoder):
    from m3plugins.serving.options import digest

    with served(encoder, keys=frozenset({digest("one"), digest("two")})) as client:
        for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "Bearer"}, {"x-api-key": ""}):
            answer = client.post("/v1/encode", json={"input": "a"}, headers=headers)
            assert answer.status_code == 401 and "API key" in answer.json()["error"]["message"]
        for headers in ({"authorization": "Bearer two"}, {"x-api-key": "one"}, {"authorization": "ApiKey one"}):
            assert client.post("/v1/encode", json={"input": "a"}, headers=headers).status_code == 200
        assert client.get("/health").status_code == 200 and client.get("/metrics").status_code == 401


def test_more_than_it_can_hold_is_answered_with_429_and_nothing_accepted_is_lost(encoder, gate):
    with served(encoder, max_texts=2, max_queued=4) as client, ThreadPoolExecutor(16) as pool:
        first = pool.submit(ask, client, input="hold")
        assert gate.reached.wait(60)
        others = [pool.submit(ask, client, input=f"text {number}") for number in range(12)]
        refused = list(islice(as_completed(others, timeout=60), 8))  # the others wait
        gate.opened.set()
        answers = [answer.result() for answer in [first, *others]]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert sum(answer.status_code == 200 for answer in answers) == 5
        assert all(answer.result().status_code == 429 for answer in refused)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_a_caller_who_leaves_takes_the_texts_along(encoder, gate):
    with served(encoder) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, input="hold")
        assert gate.reached.wait(60)
        with httpx.Client(base_url=client.base_url, timeout=0.3) as hasty, pytest.raises(httpx.ReadTimeout):
            ask(hasty, input=["one", "two"])
        threading.Event().wait(0.3)
        gate.opened.set()
        assert first.result().status_code == 200
        assert ask(client, input="three").status_code == 200
        assert sum(gate.batches) == 2


def test_its_log_has_an_id_and_neither_texts_nor_keys(encoder, caplog):
    with caplog.at_level("INFO", "m3plugins.serving"), served(encoder) as client:
        headers = {"x-request-id": "abc-1", "authorization": "Bearer hidden-key"}
        answer = client.post("/v1/encode", json={"input": "a hidden fox"}, headers=headers)
        assert answer.headers["x-request-id"] == "abc-1"
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "m3plugins.serving"]
    assert line["id"] == "abc-1" and line["path"] == "/v1/encode" and line["status"] == 200
    assert "hidden" not in caplog.text


def test_metrics_count_requests_and_texts(encoder):
    with served(encoder) as client:
        ask(client, input=["one", "two"], kind="query")
        told = client.get("/metrics").text
    assert 'm3_requests_total{path="/v1/encode",status="200"} 1.0' in told
    assert 'm3_texts_total{kind="query"} 2.0' in told and "m3_queued_texts 0.0" in told
