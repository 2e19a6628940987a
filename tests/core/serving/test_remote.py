"""An encoder whose model runs in a service: what it gives, and what it says, are the local encoder's."""

import logging
import pickle
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest

from m3plugins import HybridRetriever, InMemoryHybridIndex, M3Encoder
from m3plugins.encoding import HEADS, Passages, remote
from m3plugins.encoding.remote import ServiceError
from m3plugins.retrieval import explain
from tests.core.serving.conftest import served
from tests.core.serving.test_batcher import same
from tests.tiny import SENTENCES, random_documents


@pytest.fixture(scope="session")
def far(client) -> M3Encoder:
    return M3Encoder.from_pretrained(str(client.base_url))


@pytest.mark.parametrize("kind", ["queries", "documents"])
@pytest.mark.parametrize("heads", [HEADS, ("dense",), ("sparse", "multi_vector")])
def test_every_head_is_the_local_encoders(far, encoder, kind, heads):
    texts = [*SENTENCES, "", SENTENCES[0]]
    same(getattr(far, f"encode_{kind}")(texts, heads=heads), getattr(encoder, f"encode_{kind}")(texts, heads=heads))


def test_it_is_the_same_model_to_an_index(far, encoder):
    assert far.fingerprint == encoder.fingerprint and far.probes == encoder.probes
    for name in ("dim", "multi_vector_dim", "vocab_size", "query_max_length", "document_max_length", "settings"):
        assert getattr(far, name) == getattr(encoder, name)
    assert far.tokenizer.encode("a fox").ids == encoder.tokenizer.encode("a fox").ids
    assert far.decode_token(50) == encoder.decode_token(50)
    index = InMemoryHybridIndex(encoder=encoder)
    index.identity.check(far, "local")
    index.verify_model()


def test_searches_and_explanations_are_the_local_ones(far, encoder):
    found = []
    for model in (far, encoder):
        index = InMemoryHybridIndex(encoder=model, codec=None, passages=Passages(size=20))
        index.upsert(replace(one, parent_id=None) for one in random_documents(20)).raise_for_failed()
        hits = HybridRetriever(index).search("The quick fox", k=5)
        found.append([(hit.id, round(hit.score, 4)) for hit in hits])
        assert explain("The quick fox", hits[0], index=index).weighted == pytest.approx(hits[0].score, abs=1e-5)
    assert found[0] == found[1]


def test_a_stream_is_read_as_it_is_needed_and_comes_in_order(far, encoder, monkeypatch):
    monkeypatch.setattr(remote, "CHARACTERS_PER_REQUEST", 1000)
    read = []

    def texts():
        for number in range(400):
            read.append(number)
            yield f"a fox and {number} dogs"

    parts = far.iter_documents(texts(), heads=["dense"])
    first = next(parts)
    assert len(read) < 200
    dense = np.concatenate([first.dense, *(part.dense for part in parts)])
    expected = encoder.encode_documents([f"a fox and {number} dogs" for number in range(400)], heads=["dense"]).dense
    np.testing.assert_allclose(dense, expected, atol=1e-5)


@pytest.mark.parametrize("text", ["a fox " * 20_000, "x" * 300_000, "狐" * 300_000])
def test_of_a_long_text_no_more_is_sent_than_the_model_reads(far, encoder, text, monkeypatch, caplog):
    sent = []
    encode = remote._Client.encode
    monkeypatch.setattr(remote._Client, "encode", lambda self, body: sent.extend(body["input"]) or encode(self, body))
    with caplog.at_level(logging.WARNING):
        output, expected = far.encode_documents([text]), encoder.encode_documents([text])
    same(output, expected)
    assert output.truncated.tolist() == expected.truncated.tolist() == [True]
    assert len(sent[0]) < len(text) and "1 of 1 texts were longer" in caplog.text


@pytest.mark.parametrize(("texts", "error"), [("one string", TypeError), ([1], TypeError), (["\ud800"], ValueError)])
def test_texts_are_refused_as_the_local_encoder_refuses_them(far, encoder, texts, error):
    told = []
    for one in (far, encoder):
        with pytest.raises(error) as caught:
            one.encode_documents(texts)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_what_is_the_services_own_is_refused(far):
    with pytest.raises(ValueError, match="query_max_length, mcls are the service's own"):
        M3Encoder.from_pretrained("http://localhost:1", query_max_length=64, mcls=32)
    with pytest.raises(ValueError, match="with no user or password") as caught:
        M3Encoder.from_pretrained("http://me:secret@localhost:1")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="the model's files are where the service"):
        far.checkpoint  # noqa: B018


def test_a_key_is_given_or_taken_from_the_environment_and_never_shown(encoder, monkeypatch):
    from m3plugins.serving.options import digest

    with served(encoder, keys=frozenset({digest("the-key")})) as client:
        url = str(client.base_url)
        with pytest.raises(ValueError, match="401.*give token=, or set M3_SERVICE_TOKEN"):
            M3Encoder.from_pretrained(url, token="wrong").warm_up()
        far = M3Encoder.from_pretrained(url, token="the-key")
        assert far.fingerprint == encoder.fingerprint
        assert "the-key" not in repr(far) and b"the-key" not in pickle.dumps(far)
        monkeypatch.setenv("M3_SERVICE_TOKEN", "the-key")
        assert pickle.loads(pickle.dumps(far)).fingerprint == encoder.fingerprint


def test_a_service_that_is_busy_is_asked_again(encoder, gate):
    with served(encoder, max_texts=2, max_queued=2) as client:
        far = M3Encoder.from_pretrained(str(client.base_url)).warm_up()
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(far.encode_queries([f"query {n}"]))) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        assert gate.reached.wait(60)
        threading.Timer(1, gate.opened.set).start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8


def test_a_service_that_is_away_is_told_with_its_address(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    with pytest.raises(ServiceError, match="http://127.0.0.1:9 cannot be reached .*check the address"):
        M3Encoder.from_pretrained("http://127.0.0.1:9").warm_up()


def test_another_server_is_not_taken_for_a_service(client, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    answer = httpx.Response(404, text="<html>not here</html>")
    monkeypatch.setattr(httpx.Client, "send", lambda *arguments, **options: answer)
    with pytest.raises(ServiceError, match="says 404: it is no service of m3plugins"):
        M3Encoder.from_pretrained("http://localhost:1").warm_up()
