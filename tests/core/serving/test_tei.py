"""TEI's dialect: the encoder's dense and sparse embeddings, and refusals that name the fix."""

import numpy as np
import pytest

from tests.tiny import SENTENCES


@pytest.mark.parametrize("kind", ["query", "document"])
def test_dense_and_sparse_are_the_encoders(client, encoder, kind):
    encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
    expected = encode(SENTENCES)
    body = {"inputs": SENTENCES, "prompt_name": kind}
    np.testing.assert_allclose(client.post("/embed", json=body).json(), expected.dense, atol=1e-6)
    for row, told in enumerate(client.post("/embed_sparse", json=body).json()):
        weights = {one["index"]: one["value"] for one in told}
        assert weights == pytest.approx(expected.sparse[row].to_dict(), abs=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"inputs": []}, 422, "input must be of 1 to"),
        ({"inputs": "a", "normalize": False}, 422, "True"),
        ({"inputs": ["a", "fox " * 5000], "truncate": False}, 413, "inputs[1] is longer"),
    ],
)
def test_what_it_cannot_answer_is_refused_with_the_rule(client, body, status, message):
    answer = client.post("/embed", json=body)
    assert answer.status_code == status and message in answer.json()["error"]["message"]
