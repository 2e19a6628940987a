"""OpenAI's dialect: the encoder's dense vectors, and refusals that name the fix."""

import base64

import numpy as np
import pytest

from tests.tiny import SENTENCES


def ask(client, **body):
    return client.post("/v1/embeddings", json={"model": "any"} | body)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_base64_is_equal_to_the_native_form_to_the_last_bit(client, encoder, kind):
    encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
    expected = encode(SENTENCES, heads=["dense"])
    answer = ask(client, input=SENTENCES, encoding_format="base64", input_type=kind).json()
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]
    assert [one["index"] for one in answer["data"]] == list(range(len(SENTENCES)))
    np.testing.assert_array_equal(vectors, native(client, SENTENCES, kind))
    np.testing.assert_allclose(vectors, expected.dense, atol=1e-6)
    assert answer["model"] == encoder.name
    assert answer["usage"]["total_tokens"] == expected.token_counts.sum()


def native(client, texts, kind):
    from m3plugins.encoding.wire import MEDIA_TYPE, from_bytes

    answer = client.post("/v1/encode", json={"input": texts, "kind": kind}, headers={"accept": MEDIA_TYPE})
    return from_bytes(answer.content).dense


def test_floats_are_the_same_numbers_and_a_text_is_a_list_of_one(client, encoder):
    (one,) = ask(client, input="a fox", dimensions=encoder.dim).json()["data"]
    np.testing.assert_allclose(one["embedding"], encoder.encode_documents(["a fox"]).dense[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [1, 2]}, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
        ({"input": "a", "dimensions": 7}, "the model's own, or left out, got 7"),
        ({"input": []}, "input must be of 1 to"),
        ({"input": "a", "encoding_format": "int8"}, "'float' or 'base64'"),
    ],
)
def test_what_it_cannot_answer_is_refused_with_the_rule(client, body, message):
    answer = ask(client, **body)
    assert answer.status_code == 422 and message in answer.json()["error"]["message"]
