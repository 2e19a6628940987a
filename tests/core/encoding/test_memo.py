"""The encoder that remembers: the encoder's own outputs, one pass a text, a bound on bytes, whoever asks at once."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m3plugins import M3Encoder, M3Output
from m3plugins.encoding import HEADS, EmbeddingMemo
from m3plugins.encoding.backends.torch import TorchBackend
from tests.core.encoding.threads import SECONDS, together
from tests.tiny import SENTENCES

TEXTS = SENTENCES[:6]
Tokens = tuple[int, ...]


class Passes(Counter[Tokens]):
    """How often each text, by its token ids, went through the model; `before` may hold a pass up or fail it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[list[Tokens]], None] = lambda texts: None
        self._lock = threading.Lock()

    def add(self, texts: list[Tokens]) -> None:
        with self._lock:
            self.update(texts)
        self.before(texts)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    passes, forward = Passes(), TorchBackend.forward

    def counted(self, batch, heads):
        passes.add([tuple(text.ids.tolist()) for text in batch])
        return forward(self, batch, heads)

    monkeypatch.setattr(TorchBackend, "forward", counted)
    return passes


@pytest.fixture
def memo(encoder: M3Encoder) -> EmbeddingMemo:
    return EmbeddingMemo(encoder)


def tokens(encoder: M3Encoder, text: str) -> Tokens:
    return tuple(encoder.tokenizer.encode(text).ids)


def assert_same(got: M3Output, expected: M3Output) -> None:
    """Equal but for rounding: what else is in the batch decides the padding, and that the last bits."""
    assert got.heads == expected.heads
    assert got.token_counts.tolist() == expected.token_counts.tolist()
    assert got.truncated.tolist() == expected.truncated.tolist()
    if got.dense is not None:
        np.testing.assert_allclose(got.dense, expected.dense, atol=1e-6)
    if got.sparse is not None:
        assert [row.indices.tolist() for row in got.sparse] == [row.indices.tolist() for row in expected.sparse]
        np.testing.assert_allclose(got.sparse.values, expected.sparse.values, atol=1e-5)
    if got.multi_vector is not None:
        assert got.multi_vector.offsets.tolist() == expected.multi_vector.offsets.tolist()
        np.testing.assert_allclose(got.multi_vector.vectors, expected.multi_vector.vectors, atol=1e-6)


# One pass a text


def test_dense_then_sparse_is_one_pass(memo, passes):
    memo.encode_documents(TEXTS, heads=("dense",))
    memo.encode_documents(TEXTS, heads=("sparse",))
    memo.encode_documents(TEXTS[::-1], heads=("dense", "sparse"))
    assert len(passes) == len(TEXTS) and set(passes.values()) == {1}


def test_a_query_is_one_pass_whatever_is_asked_of_it(memo, passes):
    for head in HEADS:
        memo.encode_queries(TEXTS[:1], heads=(head,))
    assert list(passes.values()) == [1]


def test_token_vectors_of_a_document_are_computed_when_they_are_asked_for_and_then_kept(memo, passes):
    memo.encode_documents(TEXTS[:1], heads=("dense",))
    for heads in (("multi_vector",), HEADS, ("sparse",)):
        memo.encode_documents(TEXTS[:1], heads=heads)
    assert list(passes.values()) == [2]


def test_a_query_and_a_document_are_one_text_only_where_they_are_cut_alike(checkpoint, passes):
    for length, expected in ((512, 2), (8192, 1)):
        memo = M3Encoder.from_pretrained(checkpoint, query_max_length=length).warm_up().memo  # which encodes a text
        passes.clear()
        memo.encode_queries(TEXTS[:1])
        memo.encode_documents(TEXTS[:1])
        assert list(passes.values()) == [expected]


def test_a_text_twice_in_a_call_is_one_pass(memo, passes, encoder):
    got = memo.encode_documents([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert set(passes.values()) == {1}
    assert_same(got, encoder.encode_documents([TEXTS[0], TEXTS[1], TEXTS[0]]))


def test_only_new_texts_are_computed(memo, passes, encoder):
    memo.encode_documents(TEXTS[:3])
    passes.clear()
    memo.encode_documents(TEXTS[1:5])
    assert passes == Counter(tokens(encoder, text) for text in TEXTS[3:5])


def test_fifty_threads_that_ask_for_the_same_texts_are_one_pass_a_text(memo, passes, encoder):
    results = together(*[lambda: memo.encode_queries(TEXTS, heads=("dense",))] * 50)
    assert len(passes) == len(TEXTS) and set(passes.values()) == {1}
    expected = encoder.encode_queries(TEXTS, heads=("dense",))
    for result in results:
        assert_same(result, expected)


@pytest.mark.parametrize("seed", range(5))
def test_threads_with_overlapping_lists_and_heads_neither_wait_for_each_other_nor_mix_texts(encoder, seed):
    choose = random.Random(seed)
    memo = EmbeddingMemo(encoder, max_bytes=choose.choice([0, 5_000, 1 << 20]))
    wanted = [
        (choose.choices(TEXTS, k=choose.randint(1, 8)), choose.sample(HEADS, choose.randint(1, 3))) for _ in range(24)
    ]
    results = together(*[partial(memo.encode_documents, texts, heads=heads) for texts, heads in wanted])
    for (texts, heads), result in zip(wanted, results, strict=True):
        assert_same(result, encoder.encode_documents(texts, heads=heads))


def test_a_call_that_needs_more_heads_does_not_wait_and_what_it_made_is_kept(checkpoint, passes):
    """The first pass, dense and sparse, is held up until the second, all heads, is done."""
    memo = M3Encoder.from_pretrained(checkpoint, devices=["cpu", "cpu"]).warm_up().memo
    passes.clear()
    first_runs, second_is_done = threading.Event(), threading.Event()

    def hold_the_first(texts):
        if passes.total() == 1:
            first_runs.set()
            assert second_is_done.wait(SECONDS)

    def more():
        assert first_runs.wait(SECONDS)
        memo.encode_documents(TEXTS[:1], heads=("multi_vector",))
        second_is_done.set()

    passes.before = hold_the_first
    assert together(lambda: memo.encode_documents(TEXTS[:1], heads=("dense",)).heads, more) == [("dense",), None]
    assert passes.total() == 2
    memo.encode_documents(TEXTS[:1])
    assert passes.total() == 2


def test_no_promise_is_lost_where_calls_that_need_more_heads_take_over(checkpoint):
    """Threads are switched every few instructions, so that every order of their steps comes up."""
    encoder = M3Encoder.from_pretrained(checkpoint, devices=["cpu", "cpu"])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            encode = EmbeddingMemo(encoder, max_bytes=0).encode_documents
            calls = [partial(encode, TEXTS[:3], heads=(head,)) for head in ("dense", "multi_vector") * 8]
            assert all(isinstance(result, M3Output) for result in together(*calls))
    finally:
        sys.setswitchinterval(interval)


# Outputs


def test_texts_that_are_computed_together_equal_the_encoders_to_the_bit(memo, encoder):
    for heads in (HEADS, ("dense",), ("sparse", "multi_vector")):
        assert memo.encode_queries(TEXTS, heads=heads).digest() == encoder.encode_queries(TEXTS, heads=heads).digest()
    assert memo.encode_documents(TEXTS).digest() == encoder.encode_documents(TEXTS).digest()


def test_what_is_remembered_is_what_was_computed_to_the_bit(memo):
    assert memo.encode_documents(TEXTS).digest() == memo.encode_documents(TEXTS).digest()
    assert memo.encode_documents(TEXTS[2:3]).digest() == memo.encode_documents(TEXTS)[2].digest()


@pytest.mark.parametrize("count", [1, 2])
def test_a_caller_may_write_on_what_it_got(memo, encoder, count):
    for _ in range(2):
        output = memo.encode_documents(TEXTS[:count])
        output.dense[:] = 0
        output.sparse.values[:] = 0
        output.multi_vector.vectors[:] = 0
        output.token_counts[:] = 0
    assert_same(memo.encode_documents(TEXTS[:count]), encoder.encode_documents(TEXTS[:count]))


def test_queries_and_documents_are_cut_to_their_own_lengths(checkpoint):
    memo = M3Encoder.from_pretrained(checkpoint, query_max_length=8, document_max_length=16).memo
    assert memo.encode_queries(["fox " * 99]).token_counts.tolist() == [8]
    assert memo.encode_documents(["fox " * 99]).token_counts.tolist() == [16]
    assert memo.encode_queries(["fox " * 99]).truncated.tolist() == [True]


def test_no_texts_give_empty_output(memo):
    output = memo.encode_documents([], heads=("dense",))
    assert (len(output), output.heads, output.dense.shape) == (0, ("dense",), (0, 32))


def test_any_iterables_will_do(memo, encoder):
    got = memo.encode_queries((text for text in TEXTS), heads=(head for head in ("sparse", "dense")))
    assert_same(got, encoder.encode_queries(TEXTS, heads=("dense", "sparse")))


CALLS = st.tuples(
    st.sampled_from(["encode_queries", "encode_documents"]),
    st.lists(st.sampled_from([*TEXTS, "", "fox " * 40]), max_size=6),
    st.sets(st.sampled_from(HEADS), min_size=1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, max_size=8), max_bytes=st.sampled_from([0, 300, 3_000, 30_000, 1 << 20]))
def test_any_calls_one_after_the_other_equal_the_encoders_within_the_bound(encoder, calls, max_bytes):
    memo = EmbeddingMemo(encoder, max_bytes)
    for method, texts, heads in calls:
        assert_same(getattr(memo, method)(texts, heads=heads), getattr(encoder, method)(texts, heads=heads))
        assert 0 <= memo.nbytes <= max_bytes


# Bytes


def size(output: M3Output, text: str) -> int:
    return output.nbytes + len(text.encode())


@pytest.fixture
def sizes(encoder: M3Encoder) -> list[int]:
    outputs = encoder.encode_documents(TEXTS, heads=("dense", "sparse"))
    return [size(output, text) for output, text in zip(outputs, TEXTS, strict=True)]


def test_bytes_are_those_of_embeddings_and_texts(memo, sizes):
    memo.encode_documents(TEXTS, heads=("sparse",))
    assert memo.nbytes == sum(sizes)
    memo.encode_documents(TEXTS)
    assert memo.nbytes > sum(sizes)
    memo.clear()
    assert memo.nbytes == 0


def test_a_call_keeps_what_fits_and_never_forgets_its_own_texts(encoder, passes, sizes):
    memo = EmbeddingMemo(encoder, max_bytes=sum(sizes[:4]))
    passes.clear()
    for _ in range(3):  # were the least lately used forgotten, none of them would be found again
        memo.encode_documents(TEXTS, heads=("dense",))
    counts = [passes[tokens(encoder, text)] for text in TEXTS]
    assert counts[:4] == [1] * 4 and max(counts[4:]) == 3


def test_what_was_used_least_lately_is_forgotten_first(encoder, passes, sizes):
    memo = EmbeddingMemo(encoder, max_bytes=sum(sizes) - 1)
    for place in (0, 1, 2, 3, 4, 0, 5):
        memo.encode_documents([TEXTS[place]], heads=("dense",))
    passes.clear()
    memo.encode_documents([TEXTS[0]], heads=("dense",))
    assert not passes
    memo.encode_documents([TEXTS[1]], heads=("dense",))
    assert passes.total() == 1


def test_a_text_that_can_never_fit_drives_nothing_out(encoder, passes, sizes):
    memo = EmbeddingMemo(encoder, max_bytes=sum(sizes))
    memo.encode_documents(TEXTS, heads=("dense",))
    memo.encode_documents(["fox " * 5_000], heads=("dense",))
    passes.clear()
    memo.encode_documents(TEXTS, heads=("sparse",))
    assert not passes and memo.nbytes == sum(sizes)


def test_zero_bytes_keep_nothing(encoder, passes):
    memo = EmbeddingMemo(encoder, max_bytes=0)
    for turn in (1, 2):
        assert_same(memo.encode_queries(TEXTS), encoder.encode_queries(TEXTS))
        assert memo.nbytes == 0
        assert set(passes.values()) == {2 * turn}


def test_fewer_than_zero_bytes_are_refused(encoder):
    with pytest.raises(ValueError, match="max_bytes must be an integer >= 0, got -1"):
        EmbeddingMemo(encoder, max_bytes=-1)


# Failures


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one string", TypeError, "put it in a list"),
        ([TEXTS[0], None], TypeError, "got NoneType at position 1"),
        ([TEXTS[0], [TEXTS[1]]], TypeError, "got list at position 1"),
        (
            [TEXTS[0], "bad \ud800 text"],
            ValueError,
            "text 1 must be valid Unicode, got a lone surrogate at character 4",
        ),
    ],
)
def test_bad_texts_are_refused_with_their_position_by_every_call(memo, passes, texts, error, message):
    memo.encode_documents(TEXTS[:1])
    for result in together(*[lambda: memo.encode_documents(texts)] * 8):
        with pytest.raises(error, match=message):
            raise result
    assert passes.total() == 1
    memo.encode_documents(TEXTS[:2])
    assert passes.total() == 2


def test_unknown_heads_are_refused(memo):
    with pytest.raises(ValueError, match="heads must be one or more of"):
        memo.encode_queries(TEXTS, heads=("colbert",))


def test_a_pass_that_fails_is_an_error_of_every_call_and_leaves_nothing_behind(memo, passes, encoder):
    def fail(texts):
        raise MemoryError

    passes.before = fail
    results = together(*[lambda: memo.encode_documents(TEXTS)] * 12)
    assert [type(result) for result in results] == [MemoryError] * 12
    assert memo.nbytes == 0
    passes.before = lambda texts: None
    assert_same(memo.encode_documents(TEXTS), encoder.encode_documents(TEXTS))


def test_who_waits_for_a_call_that_fails_computes_its_own(memo, passes, encoder):
    """The first call has a text that fails; the second waits for the other text of it."""
    bad, first_runs = tokens(encoder, TEXTS[1]), threading.Event()

    def fail_the_bad(texts):
        first_runs.set()
        if bad in texts:
            raise MemoryError

    def second():
        assert first_runs.wait(SECONDS)
        return memo.encode_documents(TEXTS[:1])

    passes.before = fail_the_bad
    failed, got = together(lambda: memo.encode_documents(TEXTS[:2]), second)
    assert isinstance(failed, MemoryError)
    assert_same(got, encoder.encode_documents(TEXTS[:1]))
