"""The batcher: one pass a text, queries first, a bounded queue, nothing lost."""

import threading

import numpy as np
import pytest

from m3plugins.encoding import HEADS
from m3plugins.serving.batcher import Batcher, ClosedError, OverloadedError
from tests.tiny import SENTENCES


@pytest.fixture
def batcher(encoder):
    batcher = Batcher(encoder, batch_characters=200, max_queued=50)
    yield batcher
    batcher.close()


def same(one, other, tolerance=1e-6):
    assert one.heads == other.heads
    if one.dense is not None:
        np.testing.assert_allclose(one.dense, other.dense, atol=tolerance)
    if one.sparse is not None:
        assert [row.to_dict().keys() for row in one.sparse] == [row.to_dict().keys() for row in other.sparse]
        np.testing.assert_allclose(one.sparse.values, other.sparse.values, atol=tolerance)
    if one.multi_vector is not None:
        np.testing.assert_allclose(one.multi_vector.vectors, other.multi_vector.vectors, atol=tolerance)
    assert one.token_counts.tolist() == other.token_counts.tolist()


@pytest.mark.parametrize("heads", [HEADS, ("dense",), ("sparse", "multi_vector")])
@pytest.mark.parametrize("kind", ["query", "document"])
def test_what_it_gives_is_what_the_encoder_gives_in_order(batcher, encoder, kind, heads):
    texts = [*SENTENCES, SENTENCES[0], ""]
    encode = encoder.encode_queries if kind == "query" else encoder.encode_documents
    same(batcher.submit(kind, texts, heads).result(60), encode(texts, heads=heads))


def test_a_text_that_several_wait_for_is_one_pass_whatever_heads_they_ask_for(batcher, gate):
    first = batcher.submit("document", ["hold"])
    assert gate.reached.wait(60)
    asked = [batcher.submit("document", ["shared"], [head]) for head in HEADS for _ in range(3)]
    gate.opened.set()
    assert [answer.result(60).heads for answer in asked] == [(head,) for head in HEADS for _ in range(3)]
    assert batcher.submit("document", ["shared"]).result(60).heads == HEADS  # encoded lately
    assert first.result(60) and gate.batches == [1, 1]


def test_a_long_request_is_encoded_in_parts_and_queries_come_between(batcher, gate):
    done: list[str] = []
    long = [f"{number} " * 20 for number in range(40)]
    bulk = batcher.submit("document", long)
    bulk.add_done_callback(lambda _: done.append("bulk"))
    assert gate.reached.wait(60)
    query = batcher.submit("query", ["a fox"])
    query.add_done_callback(lambda _: done.append("query"))
    gate.opened.set()
    assert len(bulk.result(60)) == 40 and len(query.result(60)) == 1
    assert done == ["query", "bulk"] and len(gate.batches) > 5


def test_documents_have_their_turn_among_any_number_of_queries(batcher, gate):
    held = batcher.submit("query", ["hold"])
    assert gate.reached.wait(60)
    order: list[str] = []
    queries = [batcher.submit("query", [f"query {number} " + "x" * 190]) for number in range(30)]
    document = batcher.submit("document", ["a document"])
    for answer in queries:
        answer.add_done_callback(lambda _: order.append("query"))
    document.add_done_callback(lambda _: order.append("document"))
    gate.opened.set()
    for answer in [held, document, *queries]:
        answer.result(60)
    assert order.index("document") < 20


def test_a_full_queue_takes_all_of_a_request_or_none_of_it(batcher, gate):
    held = batcher.submit("document", ["hold"])
    assert gate.reached.wait(60)
    waiting = batcher.submit("document", [f"text {number}" for number in range(45)])
    with pytest.raises(OverloadedError, match="45 texts are waiting already; ask again in 1 s") as caught:
        batcher.submit("query", [f"query {number}" for number in range(6)])
    assert caught.value.retry_after >= 1 and batcher.queued == 45
    again = batcher.submit("document", [f"text {number}" for number in range(45)])  # the same texts take no more room
    gate.opened.set()
    assert len(held.result(60)) + len(waiting.result(60)) + len(again.result(60)) == 91


def test_what_nobody_waits_for_any_more_leaves_the_queue(batcher, gate):
    held = batcher.submit("document", ["hold"])
    assert gate.reached.wait(60)
    abandoned, kept = batcher.submit("document", ["one", "two"]), batcher.submit("document", ["two", "three"])
    assert batcher.queued == 3
    assert abandoned.cancel() and batcher.queued == 2
    gate.opened.set()
    assert len(kept.result(60)) == 2 and held.result(60)
    assert sum(gate.batches) == 3


def test_a_text_that_cannot_be_encoded_fails_alone(encoder, monkeypatch):
    encoder.memo.clear()
    encode = type(encoder).encode_documents

    def fail(self, texts, **options):
        if "bad" in (texts := list(texts)):
            raise RuntimeError("out of memory")
        return encode(self, texts, **options)

    monkeypatch.setattr(type(encoder), "encode_documents", fail)
    batcher = Batcher(encoder, wait_s=0.2)
    answers = [batcher.submit("document", [text]) for text in ("one", "bad", "two")]
    assert len(answers[0].result(60)) == len(answers[2].result(60)) == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        answers[1].result(60)
    batcher.close()


def test_closed_it_answers_what_it_took_and_takes_no_more(encoder, gate):
    batcher = Batcher(encoder)
    taken = [batcher.submit("document", [f"text {number}"]) for number in range(5)]
    threading.Timer(0.1, gate.opened.set).start()
    batcher.close()
    assert all(answer.done() for answer in taken)
    with pytest.raises(ClosedError):
        batcher.submit("query", ["a fox"])
